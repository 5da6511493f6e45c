//! OVN's language of matches, ovn-sb(5) "Logical_Flow, match": what ovn-northd takes as text and every ovn-controller parses.
//!
//! A port of the rules of OVN's `lib/lex.c`, `lib/expr.c` and `lib/logical-fields.c`: what is refused here, OVN would only
//! write into its log, and the rule would silently do nothing.
//!
//! Not judged here, but by OVN: whether the members of an address set fit the field that they are compared with (they may
//! change at any time), whether a named logical port exists, and what a template (`^name`) stands for on a chassis. Stricter
//! than OVN: `//` comments are refused, because ovn-northd puts the match in parentheses and the comment would swallow one.

mod lexer;
mod parser;
mod symbols;

use std::fmt;

pub use lexer::is_identifier;
pub use symbols::{Level, Symbol, symbols};

/// Longest match, in bytes.
pub const MATCH_BYTES_MAX: usize = 65_536;

/// Deepest nesting of parentheses. OVN takes 100, and ovn-northd adds some of its own.
pub const PARENTHESES_MAX: usize = 96;

/// Most constants of one match, those in sets counted one by one.
pub const CONSTANTS_MAX: usize = 10_000;

/// What a match can name.
pub trait Names {
    /// Whether `$name` is something.
    fn has_address_set(&self, name: &str) -> bool;
    /// Whether `@name` is something.
    fn has_port_group(&self, name: &str) -> bool;
}

/// Every name is something. For matches without a database.
#[derive(Clone, Copy, Debug)]
pub struct AnyName;

impl Names for AnyName {
    fn has_address_set(&self, _name: &str) -> bool {
        true
    }

    fn has_port_group(&self, _name: &str) -> bool {
        true
    }
}

/// What is wrong with a match, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatchError {
    /// Character at which it shows, from 1.
    pub position: usize,
    /// A sentence.
    pub problem: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Syntax,
    UnknownName,
    TooLarge,
}

impl MatchError {
    /// Stable word for it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self.kind {
            Kind::Syntax => "invalid_match",
            Kind::UnknownName => "unknown_reference",
            Kind::TooLarge => "match_too_large",
        }
    }
}

impl fmt::Display for MatchError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "is no valid match: at character {}: {}", self.position, self.problem)
    }
}

impl std::error::Error for MatchError {}

/// Whether a match is one.
pub fn check(text: &str, names: &dyn Names) -> Result<(), MatchError> {
    if text.len() > MATCH_BYTES_MAX {
        let problem = format!("it is longer than {MATCH_BYTES_MAX} bytes: use address sets and port groups");
        return Err(MatchError { position: 1, problem, kind: Kind::TooLarge });
    }
    parser::check(text, names).map_err(|error| MatchError {
        position: text[..error.at.min(text.len())].chars().count() + 1,
        problem: error.problem,
        kind: error.kind,
    })
}

/// An error at a byte of the text.
#[derive(Debug)]
struct Error {
    at: usize,
    problem: String,
    kind: Kind,
}

impl Error {
    fn syntax(at: usize, problem: impl Into<String>) -> Self {
        Self { at, problem: problem.into(), kind: Kind::Syntax }
    }
}

#[cfg(test)]
mod tests;

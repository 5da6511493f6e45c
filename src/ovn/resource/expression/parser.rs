//! From tokens to a verdict: `lib/expr.c`, without building what OVN builds.

use super::lexer::{Format, Integer, Lexer, Located, Token};
use super::symbols::{Level, Symbol, find};
use super::{CONSTANTS_MAX, Error, Kind, Names, PARENTHESES_MAX};

struct Parser<'a> {
    lexer: Lexer<'a>,
    names: &'a dyn Names,
    current: Located,
    /// Inside an odd number of `!`.
    negated: bool,
    depth: usize,
    constants: usize,
}

/// A field, or some of its bits.
struct Field {
    symbol: &'static Symbol,
    bits: u32,
}

/// Constants of one kind.
struct Constants {
    at: usize,
    is_text: bool,
    in_braces: bool,
    /// Those that stand in the match; those of sets are not known.
    integers: Vec<Integer>,
    count: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Relation {
    Equal,
    NotEqual,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

impl Relation {
    fn from_sign(sign: &str) -> Option<Self> {
        Some(match sign {
            "==" => Self::Equal,
            "!=" => Self::NotEqual,
            "<" => Self::Less,
            "<=" => Self::AtMost,
            ">" => Self::Greater,
            ">=" => Self::AtLeast,
            _ => return None,
        })
    }

    /// `a R b` is `b R' a`.
    fn turned(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::AtMost => Self::AtLeast,
            Self::Greater => Self::Less,
            Self::AtLeast => Self::AtMost,
            same => same,
        }
    }

    fn is_below(self) -> bool {
        matches!(self, Self::Less | Self::AtMost)
    }

    fn is_above(self) -> bool {
        matches!(self, Self::Greater | Self::AtLeast)
    }
}

pub(super) fn check(text: &str, names: &dyn Names) -> Result<(), Error> {
    if has_template(text)? {
        // Each chassis puts its own text there: nothing more can be said.
        return Ok(());
    }
    let mut lexer = Lexer::new(text);
    let current = lexer.next()?;
    let mut parser = Parser { lexer, names, current, negated: false, depth: 0, constants: 0 };
    parser.expression()?;
    match parser.current.token {
        Token::End => Ok(()),
        _ => Err(parser.unexpected("the end, `&&` or `||`")),
    }
}

fn has_template(text: &str) -> Result<bool, Error> {
    if !text.contains('^') {
        return Ok(false);
    }
    let mut lexer = Lexer::new(text);
    loop {
        match lexer.next()?.token {
            Token::End => return Ok(false),
            Token::Template(_) => return Ok(true),
            _ => {}
        }
    }
}

impl Parser<'_> {
    fn advance(&mut self) -> Result<Token, Error> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.current, next).token)
    }

    fn is(&self, sign: &str) -> bool {
        matches!(self.current.token, Token::Sign(current) if current == sign)
    }

    fn take(&mut self, sign: &str) -> Result<bool, Error> {
        let found = self.is(sign);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn demand(&mut self, sign: &'static str) -> Result<(), Error> {
        if self.take(sign)? { Ok(()) } else { Err(self.unexpected(&format!("`{sign}`"))) }
    }

    fn unexpected(&self, expected: &str) -> Error {
        let found = match &self.current.token {
            Token::End => "the end".to_owned(),
            Token::Id(name) => format!("`{name}`"),
            Token::Text(text) => format!("the text {text:?}"),
            Token::Integer(_) => "a number".to_owned(),
            Token::AddressSet(name) => format!("`${name}`"),
            Token::PortGroup(name) => format!("`@{name}`"),
            Token::Template(name) => format!("`^{name}`"),
            Token::Sign(sign) => format!("`{sign}`"),
        };
        Error::syntax(self.current.at, format!("expected {expected}, found {found}"))
    }

    fn expression(&mut self) -> Result<(), Error> {
        self.negation()?;
        let (operator, other) = if self.is("&&") {
            ("&&", "||")
        } else if self.is("||") {
            ("||", "&&")
        } else {
            return Ok(());
        };
        while self.take(operator)? {
            self.negation()?;
            if self.is(other) {
                let problem = "`&&` and `||` need parentheses when they are used together";
                return Err(Error::syntax(self.current.at, problem));
            }
        }
        Ok(())
    }

    fn negation(&mut self) -> Result<(), Error> {
        if !self.take("!")? {
            return self.primary().map(drop);
        }
        let at = self.current.at;
        self.negated = !self.negated;
        let atomic = self.primary()?;
        self.negated = !self.negated;
        if atomic { Ok(()) } else { Err(Error::syntax(at, "what `!` negates needs parentheses")) }
    }

    /// Whether it is one that `!` may stand before.
    fn primary(&mut self) -> Result<bool, Error> {
        if self.is("(") {
            if self.depth >= PARENTHESES_MAX {
                let problem = format!("parentheses are nested deeper than {PARENTHESES_MAX}");
                return Err(Error::syntax(self.current.at, problem));
            }
            self.advance()?;
            self.depth += 1;
            self.expression()?;
            self.depth -= 1;
            self.demand(")")?;
            return Ok(true);
        }
        match &self.current.token {
            Token::Id(_) => self.field_first(),
            _ => self.constant_first(),
        }
    }

    fn field_first(&mut self) -> Result<bool, Error> {
        let at = self.current.at;
        if let Token::Id(name) = &self.current.token
            && find(name).is_none()
        {
            return self.function(&name.clone());
        }
        let field = self.field()?;
        if self.relation().is_none() {
            if field.symbol.width == 0 || self.is("=") {
                return Err(self.unexpected("a comparison such as `==`"));
            }
            if field.bits > 1 && !self.negated {
                let problem = format!(
                    "{} has {} bits and must be compared with something, such as `!= 0`",
                    field.symbol.name, field.bits
                );
                return Err(Error::syntax(at, problem));
            }
            let zero = Integer { value: 0, mask: None, format: Format::Hexadecimal };
            let constants =
                Constants { at, is_text: false, in_braces: false, integers: vec![zero], count: 1 };
            self.compare(at, &field, Relation::NotEqual, &constants)?;
            return Ok(true);
        }
        let relation = self.demand_relation()?;
        let constants = self.constants()?;
        self.compare(at, &field, relation, &constants)?;
        Ok(false)
    }

    fn function(&mut self, name: &str) -> Result<bool, Error> {
        let at = self.current.at;
        self.advance()?;
        if !self.is("(") {
            return Err(Error::syntax(at, unknown_field(name)));
        }
        if name != "is_chassis_resident" {
            let problem = format!("`{name}` is no function: there is only is_chassis_resident(\"port\")");
            return Err(Error::syntax(at, problem));
        }
        self.advance()?;
        if !matches!(self.current.token, Token::Text(_)) {
            return Err(self.unexpected("the name of a logical port in quotes"));
        }
        self.advance()?;
        self.demand(")")?;
        Ok(true)
    }

    fn constant_first(&mut self) -> Result<bool, Error> {
        let left = self.constants()?;
        if self.relation().is_none()
            && !left.in_braces
            && let [Integer { value: 0 | 1, mask: None, format: Format::Decimal }] = left.integers[..]
        {
            return Ok(true);
        }
        let first = self.demand_relation()?;
        let at = self.current.at;
        let field = self.field()?;
        if self.relation().is_none() {
            self.compare(at, &field, first.turned(), &left)?;
            return Ok(false);
        }
        let between = self.current.at;
        let second = self.demand_relation()?;
        let right = self.constants()?;
        if !(first.is_below() && second.is_below() || first.is_above() && second.is_above()) {
            let problem =
                "a range must have the form `x < field < y` or `x > field > y` (or with `<=`, `>=`)";
            return Err(Error::syntax(between, problem));
        }
        self.compare(at, &field, first.turned(), &left)?;
        self.compare(at, &field, second, &right)?;
        Ok(false)
    }

    fn relation(&self) -> Option<Relation> {
        match self.current.token {
            Token::Sign(sign) => Relation::from_sign(sign),
            _ => None,
        }
    }

    fn demand_relation(&mut self) -> Result<Relation, Error> {
        let relation = self.relation().ok_or_else(|| self.unexpected("a comparison such as `==`"))?;
        self.advance()?;
        Ok(relation)
    }

    fn field(&mut self) -> Result<Field, Error> {
        let at = self.current.at;
        let Token::Id(name) = &self.current.token else { return Err(self.unexpected("the name of a field")) };
        let symbol = find(name).ok_or_else(|| Error::syntax(at, unknown_field(name)))?;
        self.advance()?;
        if !self.take("[")? {
            return Ok(Field { symbol, bits: symbol.width });
        }
        let name = symbol.name;
        if symbol.width == 0 {
            return Err(Error::syntax(at, format!("{name} is a text: it has no bits to choose from")));
        }
        let low = self.small()?;
        let high = if self.take("..")? { self.small()? } else { low };
        self.demand("]")?;
        if low > high {
            return Err(Error::syntax(at, format!("bits {low} to {high} are no range")));
        }
        if high >= symbol.width {
            return Err(Error::syntax(
                at,
                format!("{name} has {} bits: there is no bit {high}", symbol.width),
            ));
        }
        if symbol.level == Level::Nominal && (low != 0 || high != symbol.width - 1) {
            return Err(Error::syntax(at, format!("bits of {name} cannot be compared one by one")));
        }
        Ok(Field { symbol, bits: high - low + 1 })
    }

    fn small(&mut self) -> Result<u32, Error> {
        match self.current.token {
            Token::Integer(Integer { value, mask: None, format: Format::Decimal }) if value < 1 << 31 => {
                self.advance()?;
                Ok(u32::try_from(value).unwrap_or(u32::MAX))
            }
            _ => Err(self.unexpected("the number of a bit")),
        }
    }

    fn constants(&mut self) -> Result<Constants, Error> {
        let at = self.current.at;
        let mut found = Constants { at, is_text: false, in_braces: false, integers: Vec::new(), count: 0 };
        if !self.take("{")? {
            self.constant(&mut found)?;
            return Ok(found);
        }
        found.in_braces = true;
        loop {
            self.constant(&mut found)?;
            self.take(",")?;
            if self.take("}")? {
                return Ok(found);
            }
        }
    }

    fn constant(&mut self, found: &mut Constants) -> Result<(), Error> {
        let at = self.current.at;
        self.constants += 1;
        if self.constants > CONSTANTS_MAX {
            let problem = format!("there are more than {CONSTANTS_MAX} constants: use address sets");
            return Err(Error { at, problem, kind: Kind::TooLarge });
        }
        let is_text = match &self.current.token {
            Token::Text(_) => true,
            Token::Integer(integer) => {
                found.integers.push(*integer);
                false
            }
            Token::AddressSet(name) if self.names.has_address_set(name) => false,
            Token::PortGroup(name) if self.names.has_port_group(name) => true,
            Token::AddressSet(name) => {
                let problem = format!("there is no address set {name:?}: make it first");
                return Err(Error { at, problem, kind: Kind::UnknownName });
            }
            Token::PortGroup(name) => {
                let problem = format!("there is no port group {name:?}: make it first");
                return Err(Error { at, problem, kind: Kind::UnknownName });
            }
            _ => return Err(self.unexpected("a constant")),
        };
        if found.count > 0 && found.is_text != is_text {
            return Err(Error::syntax(at, "texts and numbers cannot stand in one set"));
        }
        found.is_text = is_text;
        found.count += 1;
        self.advance()?;
        Ok(())
    }

    fn compare(
        &self,
        at: usize,
        field: &Field,
        relation: Relation,
        constants: &Constants,
    ) -> Result<(), Error> {
        let symbol = field.symbol;
        if constants.is_text != (symbol.width == 0) {
            let (is, not) = if symbol.width == 0 { ("a text", "a number") } else { ("a number", "a text") };
            return Err(Error::syntax(constants.at, format!("{} is {is} and cannot be {not}", symbol.name)));
        }
        for integer in &constants.integers {
            let width = integer.width();
            if width > symbol.width {
                let problem = format!("{} has {} bits, the constant {width}", symbol.name, symbol.width);
                return Err(Error::syntax(constants.at, problem));
            }
        }
        if !matches!(relation, Relation::Equal | Relation::NotEqual) {
            let why = if constants.in_braces {
                Some("sets".to_owned())
            } else if symbol.level != Level::Ordinal {
                Some(symbol.name.to_owned())
            } else if constants.integers.first().is_some_and(|integer| integer.mask.is_some()) {
                Some("masked constants".to_owned())
            } else {
                None
            };
            if let Some(why) = why {
                return Err(Error::syntax(at, format!("only `==` and `!=` work with {why}")));
            }
        }
        if symbol.level == Level::Nominal {
            self.compare_nominal(at, symbol, relation, constants)
        } else {
            Ok(())
        }
    }

    /// A flow can say what a nominal field is, not what it is not.
    fn compare_nominal(
        &self,
        at: usize,
        symbol: &Symbol,
        relation: Relation,
        constants: &Constants,
    ) -> Result<(), Error> {
        let negative = (relation == Relation::NotEqual) != self.negated;
        if symbol.is_predicate {
            for integer in &constants.integers {
                if (integer.value & 1 == 1) == negative {
                    let name = symbol.name;
                    let problem = format!(
                        "{name} may only be tested positively, as in `{name}` or `{name} == 1`, not `!{name}`"
                    );
                    return Err(Error::syntax(at, problem));
                }
            }
        } else if negative {
            let problem = format!("{} may only be tested for equality, also behind `!`", symbol.name);
            return Err(Error::syntax(at, problem));
        }
        Ok(())
    }
}

impl Integer {
    /// Bits that it needs.
    fn width(&self) -> u32 {
        let needed = |value: u128| 128 - value.leading_zeros();
        match (self.mask, self.format) {
            (Some(mask), _) => needed(mask),
            (None, Format::Decimal | Format::Hexadecimal) => needed(self.value),
            (None, Format::V4) => 32,
            (None, Format::V6) => 128,
            (None, Format::Ethernet) => 48,
        }
    }
}

fn unknown_field(name: &str) -> String {
    format!("`{}` is no field that packets can be matched by", name.chars().take(64).collect::<String>())
}

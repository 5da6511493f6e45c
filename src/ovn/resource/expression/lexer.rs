//! From text to tokens: `lib/lex.c`.

use std::net::Ipv6Addr;

use super::Error;
use crate::resource::syntax::mac;

/// A token and the byte at which it starts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Located {
    pub(super) at: usize,
    pub(super) token: Token,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    End,
    Id(String),
    Text(String),
    Integer(Integer),
    AddressSet(String),
    PortGroup(String),
    Template(String),
    /// Parentheses, operators and the like, as they are written.
    Sign(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Integer {
    pub(super) value: u128,
    pub(super) mask: Option<u128>,
    pub(super) format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Decimal,
    Hexadecimal,
    V4,
    V6,
    Ethernet,
}

/// Longest signs first: the first that fits is it.
const SIGNS: &[&str] = &[
    "<->", "==", "!=", "<=", ">=", "&&", "||", "..", "--", "(", ")", "{", "}", "[", "]", "<", ">", "!", ",",
    ";", "=", ":", "-",
];

/// Longest text of an address, `INET6_ADDRSTRLEN`.
const ADDRESS_BYTES_MAX: usize = 45;

fn starts_identifier(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte == b'.'
}

fn continues_identifier(byte: u8) -> bool {
    starts_identifier(byte) || byte.is_ascii_digit()
}

/// Whether this is a name that `$` or `@` can refer to.
#[must_use]
pub fn is_identifier(text: &str) -> bool {
    text.bytes().next().is_some_and(starts_identifier) && text.bytes().all(continues_identifier)
}

pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn byte(&self, ahead: usize) -> u8 {
        self.text.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    pub(super) fn next(&mut self) -> Result<Located, Error> {
        self.skip()?;
        let at = self.at;
        let token = self.token()?;
        Ok(Located { at, token })
    }

    fn skip(&mut self) -> Result<(), Error> {
        loop {
            match self.byte(0) {
                b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => self.at += 1,
                b'/' if self.byte(1) == b'*' => {
                    let line = self.rest().split('\n').next().unwrap_or_default();
                    let Some(end) = line[2..].find("*/") else {
                        return Err(Error::syntax(self.at, "`/*` has no matching `*/` on the same line"));
                    };
                    self.at += 2 + end + 2;
                }
                b'/' if self.byte(1) == b'/' => {
                    let problem =
                        "`//` comments do not work here, because OVN puts more behind the match: use `/* */`";
                    return Err(Error::syntax(self.at, problem));
                }
                _ => return Ok(()),
            }
        }
    }

    fn token(&mut self) -> Result<Token, Error> {
        let rest = self.rest();
        let Some(first) = rest.bytes().next() else { return Ok(Token::End) };
        match first {
            b'"' => self.string(),
            b'$' => self.name("an address set").map(Token::AddressSet),
            b'@' => self.name("a port group").map(Token::PortGroup),
            b'^' => self.name("a template").map(Token::Template),
            b'0'..=b'9' => self.integer(),
            b':' if self.byte(1) == b':' => self.integer(),
            b'a'..=b'f' | b'A'..=b'F' => {
                // An Ethernet or IPv6 address that starts with a letter has a colon after its first digits.
                let digits = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
                if self.byte(digits) == b':' { self.integer() } else { Ok(self.identifier()) }
            }
            b'.' if self.byte(1) != b'.' => {
                Err(Error::syntax(self.at, "`.` is only valid as part of `..`, a name or a number"))
            }
            byte if byte != b'.' && starts_identifier(byte) => Ok(self.identifier()),
            _ => match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
                Some(sign) => {
                    self.at += sign.len();
                    Ok(Token::Sign(sign))
                }
                None => {
                    let found = rest.chars().next().unwrap_or_default();
                    Err(Error::syntax(self.at, format!("{found:?} does not belong here")))
                }
            },
        }
    }

    fn identifier(&mut self) -> Token {
        let length = self.rest().bytes().take_while(|byte| continues_identifier(*byte)).count();
        let name = self.rest()[..length].to_owned();
        self.at += length;
        Token::Id(name)
    }

    fn name(&mut self, what: &str) -> Result<String, Error> {
        let sign = self.rest().chars().next().unwrap_or_default();
        if !starts_identifier(self.byte(1)) {
            return Err(Error::syntax(self.at, format!("`{sign}` must be followed by the name of {what}")));
        }
        self.at += 1;
        match self.identifier() {
            Token::Id(name) => Ok(name),
            _ => Ok(String::new()),
        }
    }

    fn string(&mut self) -> Result<Token, Error> {
        let rest = self.rest().as_bytes();
        let mut end = 1;
        loop {
            match rest.get(end) {
                None => return Err(Error::syntax(self.at, "the quoted text has no end")),
                Some(b'"') => break,
                Some(b'\\') => end += 2,
                Some(_) => end += 1,
            }
        }
        let text = self.rest().get(..=end).and_then(|quoted| serde_json::from_str::<String>(quoted).ok());
        match text {
            Some(text) if !text.contains('\0') => {
                self.at += end + 1;
                Ok(Token::Text(text))
            }
            _ => {
                Err(Error::syntax(self.at, "the quoted text has a wrong escape: it is like a string in JSON"))
            }
        }
    }

    fn integer(&mut self) -> Result<Token, Error> {
        let start = self.at;
        let (value, format) = self.number()?;
        if self.byte(0) != b'/' {
            return Ok(Token::Integer(Integer { value, mask: None, format }));
        }
        self.at += 1;
        let (mask, mask_format) = self.number()?;
        let (mask, format) = match (format, mask_format) {
            (one, other) if one == other => (mask, format),
            (Format::V4, Format::Decimal) if mask <= 32 => (prefix(mask, 32), format),
            (Format::V6, Format::Decimal) if mask <= 128 => (prefix(mask, 128), format),
            (Format::Decimal, Format::Hexadecimal) if value == 0 => (mask, Format::Hexadecimal),
            _ => return Err(Error::syntax(start, "the value and its mask have incompatible forms")),
        };
        Ok(Token::Integer(Integer { value: value & mask, mask: Some(mask), format }))
    }

    fn number(&mut self) -> Result<(u128, Format), Error> {
        let start = self.at;
        let (mut length, mut saw_dot) = (0, false);
        loop {
            let byte = self.byte(length);
            let belongs = byte.is_ascii_alphanumeric()
                || (byte == b':' && !saw_dot)
                || (byte == b'.' && self.byte(length + 1) != b'.');
            if !belongs {
                break;
            }
            saw_dot |= byte == b'.';
            length += 1;
        }
        let text = &self.rest()[..length];
        self.at += length;
        number(text).map_err(|problem| Error::syntax(start, problem))
    }
}

fn prefix(bits: u128, width: u32) -> u128 {
    let bits = u32::try_from(bits).unwrap_or(width).min(width);
    let ones = if width == 128 { u128::MAX } else { (1 << width) - 1 };
    ones & !ones.checked_shr(bits).unwrap_or(0)
}

fn number(text: &str) -> Result<(u128, Format), String> {
    if text.is_empty() {
        return Err("a number is missing".to_owned());
    }
    if let Some(octets) = mac(text) {
        let value = octets.iter().fold(0, |value, octet| value << 8 | u128::from(*octet));
        return Ok((value, Format::Ethernet));
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        if text.len() > 1 && text.starts_with('0') {
            return Err(format!("{text} must not have leading zeros"));
        }
        let value: u64 = text.parse().map_err(|_| format!("{text} must be less than 2**64"))?;
        return Ok((value.into(), Format::Decimal));
    }
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let digits = digits.trim_start_matches('0');
        if text.len() == 2 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("{text} is no hexadecimal number"));
        }
        if digits.is_empty() {
            return Ok((0, Format::Hexadecimal));
        }
        let value = u128::from_str_radix(digits, 16).map_err(|_| format!("{text} has more than 128 bits"))?;
        return Ok((value, Format::Hexadecimal));
    }
    let invalid = || format!("{text} is no number and no address");
    if text.len() > ADDRESS_BYTES_MAX {
        return Err(invalid());
    }
    if let Some(address) = v4(text) {
        return Ok((address.into(), Format::V4));
    }
    let address: Ipv6Addr = text.parse().map_err(|_| invalid())?;
    Ok((address.to_bits(), Format::V6))
}

/// Like OVS, and unlike the standard library, with leading zeros.
fn v4(text: &str) -> Option<u32> {
    let mut value = 0;
    let mut parts = text.split('.');
    for _ in 0..4 {
        let part = parts.next().filter(|part| (1..=3).contains(&part.len()))?;
        if !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        value = value << 8 | u32::from(part.parse::<u8>().ok()?);
    }
    parts.next().is_none().then_some(value)
}

//! Which names a pattern means, in time linear in the name whatever the pattern.
//!
//! A glob is an automaton of one state per character that it must see. All states that it may be in are bits of a few
//! words and move together (Shift-And, Baeza-Yates and Gonnet 1992), so nothing is tried twice and there is nothing to
//! go back to: `*a*a*a*a*b` costs what any other pattern of its length does.

/// Bytes of one pattern or tag.
pub const PATTERN_BYTES_MAX: usize = ovncp_state::limits::PATTERN_BYTES_MAX;
/// States in one word.
const WORD_BITS: usize = 64;

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It has no characters.
    #[error("is empty; it must have at least 1 byte")]
    Empty,
    /// It has too many of them.
    #[error("has {0} bytes; it may have {PATTERN_BYTES_MAX}")]
    TooLong(usize),
    /// It ends in the middle.
    #[error("ends in a backslash that quotes nothing")]
    QuotesNothing,
}

/// Names that are meant: one, those with a prefix, or those of a glob. `*` is any run of characters, `?` one character,
/// `\` quotes the next one.
#[derive(Clone, Debug)]
pub struct Pattern(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Exact(Box<str>),
    Prefix(Box<str>),
    Glob(Glob),
}

#[derive(Clone, Debug)]
struct Glob {
    /// What every name begins with.
    prefix: Box<str>,
    /// Bits of one character at one word, sorted: the states that it moves on, together with those of `any`.
    moves: Box<[(char, u16, u64)]>,
    /// States that every character moves on.
    any: Box<[u64]>,
    /// States that every character also leaves as they are: in front of a `*`.
    stays: Box<[u64]>,
    /// The state at the end.
    accept: usize,
}

impl Pattern {
    /// Reads a pattern.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > PATTERN_BYTES_MAX {
            return Err(PatternError::TooLong(text.len()));
        }
        let (mut wanted, mut stars) = (Vec::new(), Vec::new());
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            match character {
                '*' => stars.push(wanted.len()),
                '?' => wanted.push(None),
                '\\' => wanted.push(Some(characters.next().ok_or(PatternError::QuotesNothing)?)),
                other => wanted.push(Some(other)),
            }
        }
        stars.dedup();
        let literal = wanted.iter().map_while(|wanted| *wanted);
        let until = stars.first().copied().unwrap_or(wanted.len());
        let prefix: Box<str> = literal.take(until).collect::<String>().into();
        let plain = wanted.iter().all(Option::is_some);
        Ok(Self(match stars.as_slice() {
            [] if plain => Kind::Exact(prefix),
            [star] if plain && *star == wanted.len() => Kind::Prefix(prefix),
            stars => Kind::Glob(Glob::new(prefix, &wanted, stars)),
        }))
    }

    /// Whether it means this name.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.matches_counted(name, &mut 0)
    }

    /// The same, adding what it took to `steps`: one per character of the name and word of states.
    pub(super) fn matches_counted(&self, name: &str, steps: &mut u64) -> bool {
        match &self.0 {
            Kind::Exact(exact) => name == &**exact,
            Kind::Prefix(prefix) => name.starts_with(&**prefix),
            Kind::Glob(glob) => name.starts_with(&*glob.prefix) && glob.matches(name, steps),
        }
    }

    /// What every name that is meant begins with, and whether nothing else is asked of it.
    pub(super) fn range(&self) -> Range<'_> {
        match &self.0 {
            Kind::Exact(exact) => Range::One(exact),
            Kind::Prefix(prefix) => Range::All(prefix),
            Kind::Glob(glob) => Range::Some(&glob.prefix),
        }
    }
}

/// Where in the order of names the meant ones lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Range<'a> {
    /// This one.
    One(&'a str),
    /// All with this prefix.
    All(&'a str),
    /// Some of those with this prefix.
    Some(&'a str),
}

impl Glob {
    fn new(prefix: Box<str>, wanted: &[Option<char>], stars: &[usize]) -> Self {
        let words = wanted.len() / WORD_BITS + 1;
        let (mut any, mut stays) = (vec![0; words], vec![0; words]);
        stars.iter().for_each(|state| set(&mut stays, *state));
        let mut moves: Vec<(char, u16, u64)> = Vec::new();
        for (state, character) in wanted.iter().enumerate() {
            match character {
                None => set(&mut any, state),
                Some(character) => {
                    let word = u16::try_from(state / WORD_BITS).expect("a pattern has few bytes");
                    moves.push((*character, word, 1 << (state % WORD_BITS)));
                }
            }
        }
        moves.sort_unstable();
        moves.dedup_by(|later, earlier| {
            let same = (later.0, later.1) == (earlier.0, earlier.1);
            if same {
                earlier.2 |= later.2;
            }
            same
        });
        Self { prefix, moves: moves.into(), any: any.into(), stays: stays.into(), accept: wanted.len() }
    }

    fn matches(&self, name: &str, steps: &mut u64) -> bool {
        let words = self.any.len();
        let mut states = vec![0_u64; words];
        set(&mut states, 0);
        for character in name.chars() {
            *steps += words as u64;
            if !self.step(&mut states, character) {
                return false;
            }
        }
        states[self.accept / WORD_BITS] & (1 << (self.accept % WORD_BITS)) != 0
    }

    /// Moves every state by one character; whether any is left.
    fn step(&self, states: &mut [u64], character: char) -> bool {
        let from = self.moves.partition_point(|(other, ..)| *other < character);
        let mut moves = self.moves[from..].iter().take_while(|(other, ..)| *other == character).peekable();
        let (mut carry, mut alive) = (0, 0);
        for (word, state) in states.iter_mut().enumerate() {
            let own = moves.next_if(|(_, at, _)| usize::from(*at) == word).map_or(0, |(.., bits)| *bits);
            let moved = *state & (self.any[word] | own);
            let next = (moved << 1) | carry | (*state & self.stays[word]);
            carry = moved >> (WORD_BITS - 1);
            *state = next;
            alive |= next;
        }
        alive != 0
    }
}

fn set(words: &mut [u64], state: usize) {
    words[state / WORD_BITS] |= 1 << (state % WORD_BITS);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::parse(pattern).unwrap().matches(name)
    }

    /// By the definition, and exponential.
    fn naive(pattern: &[char], name: &[char]) -> bool {
        match pattern {
            [] => name.is_empty(),
            ['*', rest @ ..] => (0..=name.len()).any(|skipped| naive(rest, &name[skipped..])),
            ['?', rest @ ..] => !name.is_empty() && naive(rest, &name[1..]),
            ['\\', quoted, rest @ ..] => name.first() == Some(quoted) && naive(rest, &name[1..]),
            [one, rest @ ..] => name.first() == Some(one) && naive(rest, &name[1..]),
        }
    }

    #[test]
    fn patterns_mean_what_the_contract_says() {
        assert!(matches("switch:1", "switch:1") && !matches("switch:1", "switch:10"));
        assert!(matches("switch:*", "switch:") && matches("switch:*", "switch:1:port"));
        assert!(!matches("switch:*", "switc") && !matches("switch:*", "router:switch:1"));
        assert!(matches("a:*:b", "a::b") && matches("a:*:b", "a:b:b:b") && !matches("a:*:b", "a:b"));
        assert!(matches("?:x", "ü:x") && !matches("?:x", ":x"));
        assert!(matches("*", "") && matches("**", "anything") && matches("*?*", "a") && !matches("*?*", ""));
        assert!(matches(r"a\*b", "a*b") && !matches(r"a\*b", "axb"));
        assert!(matches(r"a\\*", r"a\b") && matches(r"\?*", "?x") && !matches(r"\?*", "xx"));
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        assert_eq!(Pattern::parse("").unwrap_err(), PatternError::Empty);
        assert_eq!(Pattern::parse(r"a*\").unwrap_err(), PatternError::QuotesNothing);
        assert!(Pattern::parse(r"a*\\").is_ok());
        let long = "x".repeat(PATTERN_BYTES_MAX + 1);
        assert_eq!(Pattern::parse(&long).unwrap_err(), PatternError::TooLong(PATTERN_BYTES_MAX + 1));
        assert!(Pattern::parse(&long[1..]).is_ok());
    }

    #[test]
    fn ranges_are_as_narrow_as_the_pattern_allows() {
        let parse = |text| Pattern::parse(text).unwrap();
        assert_eq!(parse(r"a\*b").range(), Range::One("a*b"));
        assert_eq!(parse("a:*").range(), Range::All("a:"));
        assert_eq!(parse("a:*:b").range(), Range::Some("a:"));
        assert_eq!(parse("ab?*").range(), Range::Some("ab"));
        assert_eq!(parse("*b").range(), Range::Some(""));
    }

    /// Names and patterns on which matchers that go back never come to an end.
    #[test]
    fn hostile_patterns_cost_no_more_than_their_length() {
        let name = "a".repeat(1_024);
        let stars = |unit: &str| format!("{}b", unit.repeat((PATTERN_BYTES_MAX - 1) / unit.len()));
        for pattern in [stars("*a"), stars("a*"), stars("*?"), stars("*a?"), stars("?*a*"), stars("**")] {
            let parsed = Pattern::parse(&pattern).unwrap();
            let mut steps = 0;
            assert!(!parsed.matches_counted(&name, &mut steps), "{pattern}");
            let words = PATTERN_BYTES_MAX.div_ceil(WORD_BITS) + 1;
            assert!(steps <= (name.len() * words) as u64, "{steps} steps for {pattern}");
        }
        // The automaton spans many words and is right at their borders.
        for length in [62, 63, 64, 65, 127, 128, 129, 500] {
            let pattern = format!("*{}?{}", "a".repeat(length), "b".repeat(length));
            let name = |filler| format!("aaa{}{filler}{}", "a".repeat(length), "b".repeat(length));
            assert!(matches(&pattern, &name("x")) && matches(&pattern, &name("")[..]), "{length}");
            assert!(!matches(&pattern, &format!("{}b", name("x"))), "{length}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn agrees_with_the_definition(pattern in "[abü*?\\\\]{1,8}", name in "[abü*?]{0,9}") {
            let characters: Vec<char> = pattern.chars().collect();
            match Pattern::parse(&pattern) {
                Ok(parsed) => {
                    let wanted: Vec<char> = name.chars().collect();
                    prop_assert_eq!(parsed.matches(&name), naive(&characters, &wanted), "{} {}", pattern, name);
                    let inside = match parsed.range() {
                        Range::One(exact) => name == exact,
                        Range::All(prefix) | Range::Some(prefix) => name.starts_with(prefix),
                    };
                    prop_assert!(inside || !parsed.matches(&name), "{} is out of range", name);
                }
                Err(error) => prop_assert_eq!(error, PatternError::QuotesNothing),
            }
        }
    }
}

//! A place in the invalidation log.

use std::fmt;
use std::str::FromStr;

use ovncp_state::InvalidationOffset;

/// A place in the log. A restore begins a new epoch: offsets of an older one mean nothing in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Restore epoch.
    pub epoch: u16,
    /// Dense within it.
    pub offset: InvalidationOffset,
}

impl Position {
    /// The place behind it.
    #[must_use]
    pub fn next(self) -> Self {
        Self { offset: InvalidationOffset(self.offset.0 + 1), ..self }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.offset)
    }
}

/// A text is no position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no position of the log, such as 0:17 (epoch:offset)")]
pub struct NoPosition;

impl FromStr for Position {
    type Err = NoPosition;

    fn from_str(text: &str) -> Result<Self, NoPosition> {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (epoch, offset) = text.split_once(':').ok_or(NoPosition)?;
        if !digits(epoch) || !digits(offset) {
            return Err(NoPosition);
        }
        let offset: u64 = offset.parse().map_err(|_| NoPosition)?;
        // The last one could have nothing behind it.
        if offset == u64::MAX {
            return Err(NoPosition);
        }
        Ok(Self { epoch: epoch.parse().map_err(|_| NoPosition)?, offset: InvalidationOffset(offset) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_come_back_as_they_were_shown() {
        let position = Position { epoch: 2, offset: InvalidationOffset(17) };
        assert_eq!(position.to_string(), "2:17");
        assert_eq!("2:17".parse(), Ok(position));
        assert!(position < "2:18".parse().unwrap() && position < "3:0".parse().unwrap());
        let last = u64::MAX.to_string();
        for wrong in
            ["", "17", ":", "1:", ":1", "1:2:3", "+1:2", "1:-2", "65536:0", " 1:2", &format!("0:{last}")]
        {
            assert_eq!(wrong.parse::<Position>(), Err(NoPosition), "{wrong}");
        }
    }
}

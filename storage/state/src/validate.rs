//! Checks of single fields. Each refusal says what is allowed.

use alloc::format;
use alloc::string::ToString;

use crate::{Millis, Refusal};

pub(crate) fn invalid(field: &str, problem: &str) -> Refusal {
    Refusal::InvalidArgument { field: field.to_string(), problem: problem.to_string() }
}

pub(crate) fn bytes(field: &str, length: usize, min: usize, max: usize) -> Result<(), Refusal> {
    if (min..=max).contains(&length) {
        return Ok(());
    }
    Err(invalid(field, &format!("has {length} bytes; allowed are {min} to {max}")))
}

pub(crate) fn count(field: &str, count: usize, min: usize, max: usize) -> Result<(), Refusal> {
    if (min..=max).contains(&count) {
        return Ok(());
    }
    Err(invalid(field, &format!("has {count} entries; allowed are {min} to {max}")))
}

pub(crate) fn millis(field: &str, value: Millis, min: Millis, max: Millis) -> Result<(), Refusal> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(invalid(field, &format!("is {value} ms; allowed are {min} to {max} ms")))
}

/// Refuses the one that would go beyond `max` when `used` are there already.
pub(crate) fn limit(name: &str, used: usize, max: usize) -> Result<(), Refusal> {
    if used < max {
        return Ok(());
    }
    Err(Refusal::LimitExceeded { limit: name.to_string(), max: max as u64 })
}

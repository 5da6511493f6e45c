//! Whether this node makes a mistake on purpose: `OVNCP_MUTANT`, for the chaos harness.
//!
//! A binary without the feature `mutants`, which is every release, refuses to start with the variable set: whoever
//! set it believes to test a mutant.

use super::failure::{Exit, Failure};

/// Names the mistake.
const VARIABLE: &str = "OVNCP_MUTANT";

/// Takes the mutant of this process from the environment; what to say about it, loudly.
#[cfg(feature = "mutants")]
pub(super) fn choose() -> Result<Option<String>, Failure> {
    use ovncp_state::mutants::{Mutant, choose};

    let Some(name) = named()? else {
        return Ok(Some(
            "this binary can be a mutant, and is none now: never run it in production".to_owned(),
        ));
    };
    let Some(mutant) = Mutant::ALL.iter().find(|mutant| mutant.name() == name) else {
        let known: Vec<_> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
        let what = format!("{VARIABLE}: no mutant is called `{name}`\nknown are {}", known.join(", "));
        return Err(Failure::new(Exit::Usage, what));
    };
    choose(Some(*mutant));
    Ok(Some(format!("THIS NODE IS A MUTANT AND LOSES DATA ({name}): {}", mutant.what())))
}

/// Refuses to be one.
#[cfg(not(feature = "mutants"))]
pub(super) fn choose() -> Result<Option<String>, Failure> {
    match named()? {
        None => Ok(None),
        Some(name) => {
            let what = format!("{VARIABLE} asks for the mutant `{name}`, and this binary has none");
            let help = "cargo build --profile chaos --features mutants makes one that has";
            Err(Failure::new(Exit::Usage, what).help(help))
        }
    }
}

fn named() -> Result<Option<String>, Failure> {
    match std::env::var(VARIABLE) {
        Ok(name) => Ok(Some(name).filter(|name| !name.is_empty())),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(error) => Err(Failure::new(Exit::Usage, format!("{VARIABLE}: {error}"))),
    }
}

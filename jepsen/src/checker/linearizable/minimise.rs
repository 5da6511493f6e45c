//! Which few operations already have no order: what a person should look at.
//!
//! Only steps are taken that cannot make an orderly history disorderly, so that what is left is as wrong as the
//! whole was: what others do not depend on is left out, and conditions are dropped.

use std::collections::BTreeSet;

use super::model::{Call, Model};
use super::search::{Found, Limits, search};

/// What may be left out of a history of this object.
pub trait Reduce: Model {
    /// Operations of one unit are left out together or not at all.
    fn unit(&self, index: usize, operation: &Self::Operation) -> u64;

    /// The same effect with fewer conditions, if it has any.
    fn weaker(&self, operation: &Self::Operation) -> Option<Self::Operation>;
}

/// Numbers of calls that suffice, in their order; the one that got stuck is among them.
pub fn minimise<M: Reduce>(
    model: &M,
    calls: &[Call<M::Operation>],
    stuck: usize,
    limits: Limits,
) -> Vec<usize>
where
    M::Operation: Copy,
{
    let end = calls[stuck].returned.unwrap_or(u64::MAX);
    let mut kept: Vec<(usize, Call<M::Operation>)> = calls
        .iter()
        .enumerate()
        .filter(|(_, call)| call.invoked < end)
        // What had not returned by then may or may not have happened.
        .map(|(number, call)| (number, Call { returned: call.returned.filter(|&at| at <= end), ..*call }))
        .filter(|(_, call)| call.returned.is_some() || !model.is_read(&call.operation))
        .collect();
    let still_stuck = |some: &[(usize, Call<M::Operation>)]| {
        let calls: Vec<_> = some.iter().map(|(_, call)| *call).collect();
        matches!(search(model, &calls, limits), Found::Stuck(_))
    };
    let mut weakened = kept.clone();
    for (number, call) in &mut weakened {
        if let Some(weaker) = model.weaker(&call.operation)
            && *number != stuck
        {
            call.operation = weaker;
        }
    }
    if still_stuck(&weakened) {
        kept = weakened;
    }
    while let Some(fewer) = leave_out(model, &kept, stuck, &still_stuck) {
        kept = fewer;
    }
    kept.into_iter().map(|(number, _)| number).collect()
}

/// One round of leaving out halves, quarters and so on down to single units. None: nothing could go.
fn leave_out<M: Reduce>(
    model: &M,
    calls: &[(usize, Call<M::Operation>)],
    stuck: usize,
    still_stuck: &impl Fn(&[(usize, Call<M::Operation>)]) -> bool,
) -> Option<Vec<(usize, Call<M::Operation>)>>
where
    M::Operation: Copy,
{
    let unit = |(number, call): &(usize, Call<M::Operation>)| model.unit(*number, &call.operation);
    let mut kept = calls.to_vec();
    let mut size = kept.len().div_ceil(2);
    while size > 0 {
        let units: Vec<u64> = kept.iter().map(&unit).collect::<BTreeSet<_>>().into_iter().collect();
        for chunk in units.chunks(size) {
            let goes = |one: &(usize, Call<M::Operation>)| chunk.binary_search(&unit(one)).is_ok();
            let (gone, left): (Vec<_>, Vec<_>) = kept.iter().copied().partition(goes);
            let needed = left
                .iter()
                .any(|(_, one)| gone.iter().any(|(_, other)| model.needs(&one.operation, &other.operation)));
            if !needed && left.iter().any(|(number, _)| *number == stuck) && still_stuck(&left) {
                kept = left;
            }
        }
        size /= 2;
    }
    (kept.len() < calls.len()).then_some(kept)
}

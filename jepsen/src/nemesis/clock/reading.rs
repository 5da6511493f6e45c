//! What a node's wall clock shows: the time in the first event of an election that is observed, which is made at
//! that moment.

use std::time::Duration;

use serde::Serialize;

use super::library::now;

/// An election that nobody campaigns in.
const PATH: &str = "/api/v1/cluster/elections/wall-clock/observe";
/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// An answer without a time in so many bytes is none of ours.
const ANSWER_BYTES_MAX: usize = 16 * 1_024;

/// A node's wall clock beside ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Reading {
    /// What it shows, in milliseconds since 1970.
    pub shown_ms: i64,
    /// So much later than our own clock.
    pub ahead_ms: i64,
    /// How long the question took: the reading is as exact as that.
    pub took_ms: i64,
}

/// Asks the node at `url`; why not, where it does not say.
pub async fn read(url: &str) -> Result<Reading, String> {
    let before = ms(now());
    let shown_ms = tokio::time::timeout(ANSWER_LIMIT, ask(url))
        .await
        .map_err(|_| format!("{url}: no answer within {ANSWER_LIMIT:?}"))??;
    let after = ms(now());
    Ok(Reading { shown_ms, ahead_ms: shown_ms - (before + after) / 2, took_ms: after - before })
}

async fn ask(url: &str) -> Result<i64, String> {
    let trouble = |error: reqwest::Error| format!("{url}: {error}");
    let client = reqwest::Client::builder().no_proxy().build().map_err(trouble)?;
    let mut answer = client.get(format!("{url}{PATH}")).send().await.map_err(trouble)?;
    let mut text = String::new();
    // The stream has no end; the first block of it is enough.
    while let Some(bytes) = answer.chunk().await.map_err(trouble)? {
        text.push_str(&String::from_utf8_lossy(&bytes));
        if let Some(shown) = time_of_first_event(&text) {
            return Ok(shown);
        }
        if text.len() > ANSWER_BYTES_MAX {
            break;
        }
    }
    Err(format!("{url}: no time in {} {text:.200}", answer.status()))
}

fn ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

fn time_of_first_event(text: &str) -> Option<i64> {
    let data = text.lines().find_map(|line| line.strip_prefix("data:"))?;
    let event: serde_json::Value = serde_json::from_str(data.trim()).ok()?;
    unix_ms(event["time"].as_str()?)
}

/// Milliseconds since 1970 of an RFC 3339 time as nodes write it: UTC, with milliseconds.
fn unix_ms(time: &str) -> Option<i64> {
    let digits = time.strip_suffix('Z')?.split(['-', 'T', ':', '.']);
    let numbers: Vec<i64> = digits.map(str::parse).collect::<Result<_, _>>().ok()?;
    let [year, month, day, hour, minute, second, ms] = numbers[..] else { return None };
    let seconds = ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    Some(seconds * 1_000 + ms)
}

/// Days since 1970-01-01 in the Gregorian calendar (Howard Hinnant, `days_from_civil`).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_nodes_are_read() {
        assert_eq!(unix_ms("1970-01-01T00:00:00.000Z"), Some(0));
        assert_eq!(unix_ms("2000-02-28T23:59:59.999Z"), Some(951_782_399_999));
        assert_eq!(unix_ms("2024-03-01T00:00:00.123Z"), Some(1_709_251_200_123));
        assert_eq!(unix_ms("2024-03-01 00:00:00"), None);
    }

    #[test]
    fn the_time_is_taken_from_the_first_whole_event() {
        let event =
            "event: state\nid: 7\ndata: {\"type\":\"state\",\"time\":\"1970-01-01T00:00:01.500Z\"}\n\n";
        assert_eq!(time_of_first_event(event), Some(1_500));
        assert_eq!(time_of_first_event(&event[..40]), None);
    }
}

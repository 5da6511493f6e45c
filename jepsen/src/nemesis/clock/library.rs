//! The preloaded library and its files.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

const SOURCE: &str = include_str!("../../../faults/clock.c");
/// Name by which the library finds its file.
const FILE_VARIABLE: &str = "OVJ_CLOCK_FILE";
/// Version of a file that nobody is writing, before the first change.
const FIRST_VERSION: i64 = 0;
const WORD_BYTES: usize = 8;
/// `version`, `offset_ns`, `rate_ppm`, `since_ns`.
const WORDS: usize = 4;

/// How wrong a clock is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wrong {
    /// So much later than it is, in milliseconds.
    pub offset_ms: i64,
    /// So many microseconds are gained in each true second from now on.
    pub rate_ppm: i64,
}

/// The wall clocks of the nodes of a run.
#[derive(Clone, Debug)]
pub struct Clocks {
    folder: PathBuf,
    library: PathBuf,
}

impl Clocks {
    /// Compiles the library into `folder` and tries it; why not, where that fails.
    pub fn prepare(folder: &Path) -> Result<Self, String> {
        let trouble = |error: std::io::Error| format!("{}: {error}", folder.display());
        fs::create_dir_all(folder).map_err(trouble)?;
        let folder = folder.canonicalize().map_err(trouble)?;
        let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
        fs::write(&source, SOURCE).map_err(trouble)?;
        let mut compiler = Command::new("cc");
        compiler.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl");
        let output = compiler.stdin(Stdio::null()).output();
        let output = output.map_err(|error| format!("no C compiler (cc; Debian package gcc): {error}"))?;
        if !output.status.success() {
            return Err(format!("cc: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        Ok(Self { folder, library })
    }

    /// What a node has to be started with. Its clock is as it was left, at first right.
    pub fn environment(&self, node: &str) -> std::io::Result<Vec<(String, String)>> {
        let file = self.file(node);
        if !file.exists() {
            fs::write(&file, [0; WORDS * WORD_BYTES])?;
        }
        let text = |path: &Path| path.to_string_lossy().into_owned();
        Ok(vec![("LD_PRELOAD".to_owned(), text(&self.library)), (FILE_VARIABLE.to_owned(), text(&file))])
    }

    /// Sets the clock of a node, from now on.
    pub fn set(&self, node: &str, wrong: Wrong) -> std::io::Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(self.file(node))?;
        let mut word = [0; WORD_BYTES];
        file.read_exact_at(&mut word, 0)?;
        let version = i64::from_ne_bytes(word).max(FIRST_VERSION);
        let since_ns = i64::try_from(now().as_nanos()).unwrap_or(i64::MAX);
        let values = [wrong.offset_ms.saturating_mul(1_000_000), wrong.rate_ppm, since_ns];
        // A reader that sees an odd version, or another one afterwards, reads again.
        file.write_all_at(&(version | 1).to_ne_bytes(), 0)?;
        for (value, at) in values.into_iter().zip((WORD_BYTES..).step_by(WORD_BYTES)) {
            file.write_all_at(&value.to_ne_bytes(), at as u64)?;
        }
        file.write_all_at(&((version | 1) + 1).to_ne_bytes(), 0)
    }

    fn file(&self, node: &str) -> PathBuf {
        self.folder.join(format!("{node}.clock"))
    }
}

/// Time since 1970 by the clock of this machine, which nobody tampers with.
#[expect(clippy::disallowed_methods, reason = "the true time beside which a node's wrong one is held")]
pub(super) fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prints the wall clock and the monotonic clock as milliseconds.
    const SHOW: &str = r#"
        #include <stdio.h>
        #include <time.h>
        #include <sys/time.h>
        static long long ms(clockid_t clock) {
            struct timespec now;
            clock_gettime(clock, &now);
            return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
        }
        int main(void) {
            struct timeval day;
            gettimeofday(&day, NULL);
            long long of_day = day.tv_sec * 1000LL + day.tv_usec / 1000;
            printf("%lld %lld %lld %lld\n", ms(CLOCK_REALTIME), of_day, time(NULL) * 1000LL, ms(CLOCK_MONOTONIC));
            return 0;
        }
    "#;

    /// A program that shows its clocks, run with the environment of a node.
    struct Show {
        clocks: Clocks,
        program: PathBuf,
    }

    impl Show {
        fn new(folder: &Path) -> Option<Self> {
            let clocks = match Clocks::prepare(folder) {
                Ok(clocks) => clocks,
                Err(why) => {
                    eprintln!("SKIPPED: {why}");
                    return None;
                }
            };
            let (source, program) = (folder.join("show.c"), folder.join("show"));
            fs::write(&source, SHOW).unwrap();
            assert!(Command::new("cc").arg("-o").arg(&program).arg(&source).status().unwrap().success());
            Some(Self { clocks, program })
        }

        /// Wall clock three times and the monotonic clock, each less what is true, in milliseconds.
        fn differences(&self, node: &str) -> Vec<i64> {
            let (wall, monotonic) = (now(), monotonic_ms());
            let mut command = Command::new(&self.program);
            let output = command.envs(self.clocks.environment(node).unwrap()).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let shown: Vec<i64> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
            let wall = i64::try_from(wall.as_millis()).unwrap();
            vec![shown[0] - wall, shown[1] - wall, shown[2] - wall, shown[3] - monotonic]
        }
    }

    fn monotonic_ms() -> i64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        now.tv_sec * 1_000 + now.tv_nsec / 1_000_000
    }

    const HOUR_MS: i64 = 3_600_000;
    /// A busy machine may take this long to start a program.
    const SLACK_MS: i64 = 60_000;

    fn near(difference: i64, wanted: i64) -> bool {
        (wanted - 1_000..wanted + SLACK_MS).contains(&difference)
    }

    #[test]
    fn the_wall_clock_jumps_and_the_monotonic_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let Some(show) = Show::new(folder.path()) else { return };
        for offset_ms in [0, HOUR_MS, -HOUR_MS, 0] {
            let _ = show.differences("n1");
            show.clocks.set("n1", Wrong { offset_ms, rate_ppm: 0 }).unwrap();
            let seen = show.differences("n1");
            assert!(seen[..3].iter().all(|wall| near(*wall, offset_ms)), "{offset_ms}: {seen:?}");
            assert!(near(seen[3], 0), "{seen:?}");
            assert!(near(show.differences("n2")[0], 0));
        }
    }

    #[test]
    fn a_clock_gains_what_its_rate_says() {
        let folder = tempfile::tempdir().unwrap();
        let Some(show) = Show::new(folder.path()) else { return };
        let _ = show.differences("n1");
        // A million times too fast: each millisecond gains a thousand seconds.
        show.clocks.set("n1", Wrong { offset_ms: 0, rate_ppm: 1_000_000_000_000 }).unwrap();
        let first = show.differences("n1");
        let second = show.differences("n1");
        assert!(first[0] >= 0 && second[0] > first[0], "{first:?} {second:?}");
        assert!(near(second[3], 0), "{second:?}");
        // Backwards too, and right again at once.
        show.clocks.set("n1", Wrong { offset_ms: 0, rate_ppm: -1_000_000 }).unwrap();
        assert!(show.differences("n1")[0] <= SLACK_MS);
        show.clocks.set("n1", Wrong::default()).unwrap();
        assert!(near(show.differences("n1")[0], 0));
    }
}

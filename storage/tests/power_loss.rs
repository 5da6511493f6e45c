//! Power loss for real: ext4 on a loop device that is shut down without flushing anything.
//!
//! `EXT4_IOC_SHUTDOWN` with the flag for "no flush" drops everything that was not synced, as a power cut does.
//! Needs root, loop devices and mkfs.ext4; without them the test says so and passes.
// Helpers of tests may panic, too.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use openraft::RaftLogReader;
use openraft::storage::RaftLogStorage;
use ovncp_storage::StoreOptions;
use ovncp_storage::disk::RealDisk;
use support::{append, entry, open_log, run, vote};
use tempfile::TempDir;

const DIRECTORY: &str = "OVNCP_TEST_POWER_LOSS_DIRECTORY";
const TRIES: u64 = 3;

fn options() -> StoreOptions {
    // Small segments, so that they roll during the test.
    StoreOptions { segment_bytes: 256 * 1_024, ..StoreOptions::default() }
}

/// Not a test of its own: the process that writes until it is killed, and says what was acknowledged.
#[test]
fn write_until_killed() {
    let Some(path) = std::env::var_os(DIRECTORY) else { return };
    run(async {
        let mut log = open_log(&RealDisk, PathBuf::from(path), options()).unwrap();
        let last = log.get_log_state().await.unwrap().last_log_id.map_or(0, |id| id.index);
        let mut out = std::io::stdout();
        writeln!(out, "\nwriting").unwrap();
        for index in last + 1.. {
            if index % 100 == 0 {
                log.save_vote(&vote(index, 1)).await.unwrap();
                writeln!(out, "vote {index}").unwrap();
            }
            append(&mut log, vec![entry(1, index, (index % 700) as usize, 0)]).await.unwrap();
            writeln!(out, "entry {index}").unwrap();
            out.flush().unwrap();
        }
    });
}

#[test]
fn nothing_acknowledged_is_lost_when_the_power_is_cut() {
    let root = TempDir::new().unwrap();
    let machine = match Machine::new(root.path()) {
        Ok(machine) => machine,
        Err(why) => {
            eprintln!("SKIPPED nothing_acknowledged_is_lost_when_the_power_is_cut: {why}");
            return;
        }
    };
    let data = machine.mount.join("data");
    let mut entries = 0;
    for round in 1..=TRIES {
        let acknowledged = write_and_kill(&data, entries + 150 * round);
        machine.cut_power().unwrap();
        machine.mount().unwrap();
        run(async {
            let mut log = open_log(&RealDisk, &data, options()).unwrap();
            let last = log.get_log_state().await.unwrap().last_log_id.unwrap().index;
            assert!(last >= acknowledged.entries, "{last} of {} entries", acknowledged.entries);
            let mut reader = log.get_log_reader().await;
            let found = reader.try_get_log_entries(1..=last).await.unwrap();
            assert_eq!(found.len() as u64, last);
            for (found, index) in found.into_iter().zip(1..) {
                assert_eq!(found, entry(1, index, (index % 700) as usize, 0));
            }
            let term = reader.read_vote().await.unwrap().map_or(0, |vote| vote.leader_id.term);
            assert!(term >= acknowledged.vote, "vote of term {term}, acknowledged {}", acknowledged.vote);
            entries = last;
        });
    }
}

struct Acknowledged {
    entries: u64,
    vote: u64,
}

/// Starts a writer, kills it with -9 once it acknowledged enough.
fn write_and_kill(data: &Path, enough: u64) -> Acknowledged {
    let mut writer = Command::new(std::env::current_exe().unwrap())
        .args(["write_until_killed", "--exact", "--nocapture"])
        .env(DIRECTORY, data)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    let mut acknowledged = Acknowledged { entries: 0, vote: 0 };
    let mut killed = false;
    for line in lines {
        // The last line may be cut off by the kill: then it was not acknowledged to us.
        let Ok(line) = line else { break };
        match line.split_once(' ') {
            Some(("entry", index)) => acknowledged.entries = index.parse().unwrap_or(acknowledged.entries),
            Some(("vote", term)) => acknowledged.vote = term.parse().unwrap_or(acknowledged.vote),
            _ => {}
        }
        if acknowledged.entries >= enough && !killed {
            writer.kill().unwrap();
            killed = true;
        }
    }
    writer.wait().unwrap();
    assert!(killed, "the writer ended by itself after {} entries", acknowledged.entries);
    acknowledged
}

/// A file system of its own, on a file.
struct Machine {
    image: PathBuf,
    mount: PathBuf,
}

impl Machine {
    fn new(root: &Path) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("needs root".to_owned());
        }
        let machine = Self { image: root.join("disk.img"), mount: root.join("mnt") };
        let image = File::create(&machine.image).map_err(|error| error.to_string())?;
        image.set_len(96 << 20).map_err(|error| error.to_string())?;
        std::fs::create_dir(&machine.mount).map_err(|error| error.to_string())?;
        command("mkfs.ext4", &["-q", "-F", path(&machine.image)])?;
        machine.mount()?;
        // Probe what the test is about before anything depends on it.
        machine.cut_power()?;
        machine.mount()?;
        Ok(machine)
    }

    fn mount(&self) -> Result<(), String> {
        command("mount", &["-o", "loop", path(&self.image), path(&self.mount)])
    }

    /// Shuts the file system down without flushing, and takes it away.
    fn cut_power(&self) -> Result<(), String> {
        // No safe wrapper of this ioctl exists, and this crate forbids unsafe code: perl has one.
        let script = "open(my $d, '<', $ARGV[0]) or die $!; my $f = pack('L', 2); ioctl($d, 0x8004587d, $f) or die $!;";
        command("perl", &["-e", script, path(&self.mount)])?;
        command("umount", &[path(&self.mount)])
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = command("umount", &[path(&self.mount)]);
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn command(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

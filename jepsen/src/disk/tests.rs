use super::*;

/// Loop disks, or `None` (and a line that says why) where this machine has none.
fn loop_disk(folder: &Path) -> Option<(Disks, Image)> {
    let disks = Disks::prepare(DiskKind::Loop, folder, &["n1".to_owned()]).unwrap();
    if let Some(why) = disks.notice() {
        eprintln!("SKIPPED: {why}");
        return None;
    }
    let image = disks.get("n1").unwrap().image().unwrap().clone();
    Some((disks, image))
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::Builder::new().prefix("ovj-disk-").tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    (folder, path)
}

#[test]
fn power_loss_takes_what_was_not_synced_and_nothing_else() {
    let (_folder, path) = folder();
    let Some((disks, image)) = loop_disk(&path) else { return };
    let data = disks.data_dir("n1").unwrap();
    let write = |name: &str, bytes: &[u8], sync: bool| {
        let path = data.join(name);
        fs::write(&path, bytes).unwrap();
        if sync {
            fs::File::open(&path).unwrap().sync_all().unwrap();
        }
    };
    for _ in 0..2 {
        write("acknowledged", &[1; 20_000], true);
        write("forgotten", &[2; 20_000], false);
        // Written over, not synced again: five blocks of it are lost.
        let file = fs::OpenOptions::new().write(true).open(data.join("acknowledged")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[3; 4_096], 4_096).unwrap();
        drop(file);
        let loss = image.lose_power().unwrap();
        assert!(loss.is_effective(), "{loss:?}");
        assert_eq!((loss.files_changed, loss.blocks_lost), (1, 6), "{loss:?}");
        assert_eq!(fs::read(data.join("acknowledged")).unwrap(), vec![1; 20_000]);
        assert!(!data.join("forgotten").exists());
    }
    disks.delete().unwrap();
    assert!(!image.mount_point().exists());
}

#[test]
fn a_full_disk_takes_nothing_more_until_there_is_room() {
    let (_folder, path) = folder();
    let Some((disks, image)) = loop_disk(&path) else { return };
    let victim = image.mount_point().join("victim");
    let filler = filler::Filler::fill(image.mount_point()).unwrap();
    assert!(filler.bytes > 100_000_000, "{filler:?}");
    let full = fs::write(&victim, vec![1; 1_000_000]).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull, "{filler:?}");
    assert!(filler.is_full().unwrap());
    // By now the file is there for good; so is its end.
    fs::File::open(image.mount_point()).unwrap().sync_all().unwrap();
    drop(filler);
    image.lose_power().unwrap();
    fs::write(&victim, vec![1; 1_000_000]).unwrap();
    disks.delete().unwrap();
}

#[test]
fn disks_that_are_dropped_leave_no_mount() {
    let (_folder, path) = folder();
    let names = ["n1".to_owned(), "n2".to_owned()];
    let mut disks = Disks::prepare(DiskKind::Loop, &path, &names).unwrap();
    disks.add("n3").unwrap();
    fs::write(disks.data_dir("n3").unwrap().join("file"), b"1").unwrap();
    disks.get("n3").unwrap().replace().unwrap();
    assert_eq!(fs::read_dir(disks.data_dir("n3").unwrap()).unwrap().count(), 0);
    assert!(matches!(disks.get("n4"), Err(DiskError::NotPossible(_))));
    let mounted =
        || fs::read_to_string("/proc/self/mountinfo").unwrap().matches(path.to_str().unwrap()).count();
    match disks.notice() {
        None => {
            assert_eq!(mounted(), 3);
            disks.remove("n2").unwrap();
            assert_eq!(mounted(), 2);
            // What a killed harness leaves is found by its folder.
            assert_eq!(clean(&path).len(), 2);
            assert_eq!(mounted(), 0);
            disks.release().unwrap();
        }
        Some(why) => {
            assert_eq!((disks.kind(), mounted()), (DiskKind::Dir, 0));
            eprintln!("SKIPPED: {why}");
        }
    }
    drop(disks);
    assert_eq!(mounted(), 0);
}

#[test]
fn folders_cannot_lose_power_and_say_so() {
    let (_folder, path) = folder();
    let disks = Disks::prepare(DiskKind::Dir, &path, &["n1".to_owned()]).unwrap();
    let why = disks.get("n1").unwrap().image().unwrap_err().to_string();
    assert!(why.contains("--disk loop"), "{why}");
    disks.delete().unwrap();
    assert!(!path.join("n1").exists());
}

/// Syncs a file for as long as it lives; stands in for a node.
fn syncing(folder: &Path) -> std::process::Child {
    let script = r#"
        use IO::Handle;
        open(my $file, ">", $ARGV[0]) or die;
        $| = 1;
        while (1) { print((defined $file->sync) ? "synced\n" : "failed\n"); select(undef, undef, undef, 0.005) }
    "#;
    let output = fs::File::create(folder.join("said")).unwrap();
    let mut command = std::process::Command::new("perl");
    command.args(["-e", script]).arg(folder.join("0000000001.wal")).stdout(output);
    command.spawn().unwrap()
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < std::time::Duration::from_secs(60), "never: {what}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn injected_failures_reach_a_live_process_and_end() {
    let (_folder, path) = folder();
    if let Err(why) = injection::possible() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let mut process = syncing(&path);
    let said = || fs::read_to_string(path.join("said")).unwrap();
    until("it runs", || said().contains("synced"));
    assert!(!said().contains("failed"));
    let begun = injection::Injection::start(process.id(), injection::Failure::SyncFails, &path.join("trace"));
    match begun {
        Ok(injection) => {
            until("failures are seen", || said().contains("failed"));
            until("and counted", || injection.injected().unwrap().log_calls > 0);
            let injected = injection.stop().unwrap();
            let failures = said().matches("failed").count() as u64;
            assert!(
                injected.calls >= failures.min(1) && injected.log_calls == injected.calls,
                "{injected:?}"
            );
            let healed = said().len();
            until("it goes on", || said()[healed..].contains("synced"));
        }
        // A container may forbid tracing.
        Err(why) => eprintln!("SKIPPED: {why}"),
    }
    process.kill().unwrap();
    process.wait().unwrap();
}

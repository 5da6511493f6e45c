use super::*;

fn parsed(arguments: &[&str]) -> Result<RunArgs, String> {
    let cli = Cli::try_parse_from(["ovncp-jepsen", "run"].iter().chain(arguments));
    match cli.map_err(|error| error.to_string())?.command {
        Command::Run(args) => Ok(args),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_command_line_is_consistent() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
}

#[test]
fn unknown_names_list_the_known_ones() {
    let workload = parsed(&["--workload", "queue"]).unwrap_err();
    for name in ["register", "lock", "lock-unfenced", "fifo", "shared", "multi", "election", "membership"] {
        assert!(workload.contains(name), "{name} in {workload}");
    }
    let nemesis = parsed(&["--nemesis", "kill-one,meteorite"]).unwrap_err();
    assert!(nemesis.contains("no fault \"meteorite\""), "{nemesis}");
    for kind in NemesisKind::all() {
        assert!(nemesis.contains(&kind.name()), "{kind:?} in {nemesis}");
    }
}

#[test]
fn faults_are_a_set() {
    let kinds = |text| parse_nemesis(text).unwrap().kinds;
    assert_eq!(kinds("pause,kill-one,pause"), [NemesisKind::KillOne, NemesisKind::Pause]);
    assert_eq!(kinds("mixed"), NemesisKind::all());
    assert!(kinds("none").is_empty());
    assert!(parse_nemesis("").is_err() && parse_nemesis("pause,,loss").is_err());
}

#[test]
fn senseless_numbers_are_refused() {
    for wrong in [["--time", "0"], ["--time", "1h"], ["--clients", "0"], ["--nodes", "8"], ["--rate", "-1"]] {
        assert!(parsed(&wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn the_replay_command_makes_the_same_plan() {
    let arguments =
        ["--nemesis", "loss,pause", "--time", "7", "--rate", "2.5", "--net", "proxy", "--seed", "9"];
    let mut args = parsed(&arguments).unwrap();
    args.binary = std::env::current_exe().ok();
    let made = plan(args, Path::new("store")).unwrap();
    let words: Vec<&str> = made.replay.split(' ').skip(2).collect();
    let mut again = parsed(&words).unwrap();
    again.binary = std::env::current_exe().ok();
    assert_eq!(plan(again, Path::new("store")).unwrap(), made);
}

#[test]
fn a_missing_binary_is_said_with_what_to_do() {
    let problem = find_binary(Some("no/such/ovncp".into())).unwrap_err();
    assert!(problem.contains("no/such/ovncp") && problem.contains("cargo build --release"), "{problem}");
}

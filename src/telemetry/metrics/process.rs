//! The process and its runtime, as the kernel and tokio tell. The names are those of every Prometheus client.

use std::time::Duration;

use prometheus::proto::MetricFamily;
use tokio::runtime::Handle;

use super::declared::declare;

declare! {
    /// The process, its runtime and its build.
    PROCESS:
    CPU = Counter "process_cpu_seconds_total" {} in "seconds",
        "User and system CPU time.", night "A rate near the number of cores: overload. See ovncp_http_requests_total.";
    RESIDENT = Gauge "process_resident_memory_bytes" {} in "bytes",
        "Resident memory.", night "State lives in memory: compare with ovncp_cluster_locks_held and ovncp_kv_bytes.";
    VIRTUAL = Gauge "process_virtual_memory_bytes" {} in "bytes",
        "Virtual memory.", night "Rarely of interest; see the resident memory.";
    OPEN_FDS = Gauge "process_open_fds" {} in "descriptors",
        "Open file descriptors.", night "Near process_max_fds connections are refused: raise LimitNOFILE or lower server.connections_max.";
    MAX_FDS = Gauge "process_max_fds" {} in "descriptors",
        "File descriptors that may be open.", night "At least server.connections_max and some hundred more.";
    THREADS = Gauge "process_threads" {} in "threads",
        "Threads of the process.", night "A few dozen; growing means a defect.";
    START = Gauge "process_start_time_seconds" {} in "seconds",
        "Start of the process, Unix time.", night "Recent on its own: it was restarted. The log of the previous run says why.";
    WORKERS = Gauge "ovncp_runtime_workers" {} in "threads",
        "Worker threads of the runtime.", night "As many as cores.";
    BUSY = Counter "ovncp_runtime_busy_seconds_total" {} in "seconds",
        "Time the worker threads ran tasks, all together.", night "A rate near ovncp_runtime_workers: no CPU is left.";
    TASKS = Gauge "ovncp_runtime_tasks" {} in "tasks",
        "Live tasks of the runtime.", night "Grows with connections; without them it must not.";
    QUEUE = Gauge "ovncp_runtime_queue_depth" {} in "tasks",
        "Tasks ready to run that no worker has taken, in all queues.", night "Constantly above some hundred: CPU starvation, elections will follow.";
    BUILD = Gauge "ovncp_build_info" {version} in "1",
        "Version of this binary, always 1.", night "Different versions at once are fine during an upgrade only.";
}

/// What the kernel counts times in, on every architecture this runs on (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Every family of this file. What the kernel does not tell is left out.
pub(crate) fn families() -> Vec<MetricFamily> {
    let mut families = vec![BUILD.each([(env!("CARGO_PKG_VERSION"), 1.0)])];
    if let Ok(runtime) = Handle::try_current() {
        families.extend(of_runtime(&runtime));
    }
    families.extend(of_process().unwrap_or_default());
    families
}

fn of_runtime(runtime: &Handle) -> [MetricFamily; 4] {
    let metrics = runtime.metrics();
    let workers = metrics.num_workers();
    let busy: Duration = (0..workers).map(|worker| metrics.worker_total_busy_duration(worker)).sum();
    let local: usize = (0..workers).map(|worker| metrics.worker_local_queue_depth(worker)).sum();
    [
        WORKERS.value(workers as f64),
        BUSY.value(busy.as_secs_f64()),
        TASKS.value(metrics.num_alive_tasks() as f64),
        QUEUE.value((metrics.global_queue_depth() + local) as f64),
    ]
}

/// Reads `/proc`: a few small files.
fn of_process() -> Option<Vec<MetricFamily>> {
    let times = Times::parse(&std::fs::read_to_string("/proc/self/stat").ok()?)?;
    let sizes = std::fs::read_to_string("/proc/self/status").ok()?;
    let mut families = vec![CPU.value(times.cpu_ticks as f64 / TICKS_PER_SECOND)];
    let boot = std::fs::read_to_string("/proc/stat").ok();
    if let Some(boot) = boot.as_deref().and_then(boot_time) {
        families.push(START.value(boot as f64 + times.start_ticks as f64 / TICKS_PER_SECOND));
    }
    for (declared, name, unit) in
        [(&VIRTUAL, "VmSize:", 1_024), (&RESIDENT, "VmRSS:", 1_024), (&THREADS, "Threads:", 1)]
    {
        families.extend(number_after(&sizes, name).map(|number| declared.value((number * unit) as f64)));
    }
    families.extend(open_fds().map(|open| OPEN_FDS.value(open as f64)));
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    families.push(MAX_FDS.value(limit.map_or(f64::INFINITY, |limit| limit as f64)));
    Some(families)
}

/// Newer kernels tell their number as the size of the folder; older ones have it counted.
fn open_fds() -> Option<u64> {
    const FOLDER: &str = "/proc/self/fd";
    match std::fs::metadata(FOLDER).ok()?.len() {
        0 => std::fs::read_dir(FOLDER).ok().map(|entries| entries.count() as u64),
        told => Some(told),
    }
}

/// Unix time of the boot, from `/proc/stat`.
fn boot_time(text: &str) -> Option<u64> {
    number_after(text, "btime")
}

/// The first number of the line that begins with `name`.
fn number_after(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Times that `/proc/self/stat` tells, in ticks.
#[derive(Debug, PartialEq, Eq)]
struct Times {
    cpu_ticks: u64,
    start_ticks: u64,
}

impl Times {
    fn parse(text: &str) -> Option<Self> {
        // The name of the program stands in parentheses and may contain anything, also these.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Numbered as in proc(5), where the one after the name is the third.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self { cpu_ticks: field(14)? + field(15)?, start_ticks: field(22)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_kernel_are_found_behind_any_name() {
        let text = "71 (a) b (c)) S 1 71 71 0 -1 4194560 9 0 0 0 120 30 0 0 20 0 7 0 5000 8192000 250 18446744073709551615";
        assert_eq!(Times::parse(text), Some(Times { cpu_ticks: 150, start_ticks: 5_000 }));
        assert_eq!(Times::parse("71 (short) S 1"), None);
        assert_eq!(number_after("VmSize:\t  8192 kB\nVmRSS:\t 250 kB\n", "VmRSS:"), Some(250));
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000));
    }

    #[test]
    fn this_process_has_plausible_values() {
        let families = of_process().unwrap();
        let value = |declared: &super::super::Declared| {
            let family = families.iter().find(|family| family.name() == declared.name).unwrap();
            let metric = &family.get_metric()[0];
            metric.get_gauge().get_value() + metric.get_counter().get_value()
        };
        assert!(value(&RESIDENT) > 1e6 && value(&VIRTUAL) >= value(&RESIDENT));
        assert!(value(&OPEN_FDS) >= 3.0 && value(&MAX_FDS) >= value(&OPEN_FDS));
        assert!(value(&THREADS) >= 1.0 && value(&CPU) >= 0.0);
        let now = crate::wall_clock::unix_ms() as f64 / 1e3;
        assert!((now - 86_400.0..=now + 5.0).contains(&value(&START)), "{}", value(&START));
    }
}

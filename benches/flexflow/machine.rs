//! What every result is written beside: machine, commit, command.

use std::path::Path;
use std::process::Command;

/// One line that says where and of what a result is.
pub fn describe() -> String {
    let output = |program: &str, args: &[&str]| {
        Command::new(program)
            .args(args)
            .output()
            .ok()
            .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
            .unwrap_or_default()
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let command: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    format!(
        "{cores} cores ({model}), commit {}, `just bench {}`",
        output("git", &["rev-parse", "--short", "HEAD"]),
        command.join(" ")
    )
}

/// Resident memory of a process in MiB.
pub fn resident_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .map_or(0, |kib| kib / 1024)
}

/// CPU seconds a process has used, in user and kernel mode.
pub fn cpu_seconds(pid: u32) -> f64 {
    cpu_of(Path::new(&format!("/proc/{pid}/stat")))
}

fn cpu_of(stat: &Path) -> f64 {
    let stat = std::fs::read_to_string(stat).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    // The kernel counts in hundredths of a second on every Linux that FlexFlow runs on.
    (ticks(11) + ticks(12)) / 100.0
}

/// CPU seconds of this process by what its threads do: the server, the load generator, the log.
pub fn cpu_by_part() -> [f64; 3] {
    let mut parts = [0.0; 3];
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    for task in tasks {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let part = match name.trim() {
            name if name.starts_with("actix") => 0,
            name if name.starts_with("eventlog") || name.starts_with("fjall") => 2,
            _ => 1,
        };
        parts[part] += cpu_of(&task.path().join("stat"));
    }
    parts
}

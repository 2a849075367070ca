//! What the benches print, and what they read of a running process.

use std::fs;

/// Prints a figure with its target: `mark NAME VALUE TARGET met|missed`.
pub fn mark(name: &str, value: f64, unit: &str, most: f64) {
    let verdict = if value <= most { "met" } else { "missed" };
    println!("mark {name:<52} {value:>9.3} {unit:<9} at most {most}: {verdict}");
}

/// Prints a figure that has no target.
pub fn figure(name: &str, value: f64, unit: &str) {
    println!("     {name:<52} {value:>9.3} {unit}");
}

/// The smallest of these values that at least so many percent of them do not exceed.
pub fn percentile(percent: usize, values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() * percent).div_ceil(100) - 1]
}

/// Processor time of a process in seconds (proc(5), fields 14 and 15 of `stat`).
pub fn processor(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name").1.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().expect("a number") + fields[12].parse::<u64>().expect("a number");
    ticks as f64 / 100.0
}

/// Resident megabytes: now (`VmRSS`), or at most so far (`VmHWM`).
pub fn megabytes(pid: u32, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with(field)).expect("the field");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).expect("a number") / 1000.0
}

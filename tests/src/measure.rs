//! What the benches print, and what they read of a running process.

use std::fs;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Marks that were missed so far.
static MISSED: AtomicUsize = AtomicUsize::new(0);

/// Prints a figure with its target: `mark NAME VALUE TARGET met|missed`.
pub fn mark(name: &str, value: f64, unit: &str, most: f64) {
    let is_met = value <= most;
    let verdict = if is_met { "met" } else { "missed" };
    MISSED.fetch_add(usize::from(!is_met), Ordering::Relaxed);
    println!("mark {name:<52} {value:>9.3} {unit:<9} at most {most}: {verdict}");
}

/// How a bench ends: with 1 where a mark was missed.
pub fn end() -> ExitCode {
    ExitCode::from(u8::from(MISSED.load(Ordering::Relaxed) > 0))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bench_ends_with_1_where_a_mark_is_missed() {
        mark("a plan", 20.0, "ms", 20.0);
        assert_eq!(end(), ExitCode::SUCCESS);
        mark("a plan", 20.1, "ms", 20.0);
        mark("another", 1.0, "ms", 20.0);
        assert_eq!(end(), ExitCode::FAILURE);
        mark("no figure", f64::NAN, "ms", 20.0);
        assert_eq!(MISSED.load(Ordering::Relaxed), 2, "what cannot be measured meets nothing");
    }
}

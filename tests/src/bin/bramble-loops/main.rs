//! Load for `./dev bench loops`: the planners alone, and a real head with a fleet and a simulated Swarm.
//!
//! ```text
//! bramble-loops planners NODES WORKLOADS    one plan of every planner, in-process
//! bramble-loops head NODES WORKLOADS        from a change to its first step; inside namespaces of its own
//! bramble-loops pushes NODES WORKLOADS      of that only the way from a push to a current snapshot
//! ```

mod head;
mod planners;

use std::process::ExitCode;

use bramble_tests::measure;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let number = |word: &str| word.parse().expect("a number");
    match words[..] {
        ["planners", nodes, workloads] => planners::measure(number(nodes), number(workloads)),
        ["head", nodes, workloads] => head::measure(number(nodes), number(workloads), true),
        ["pushes", nodes, workloads] => head::measure(number(nodes), number(workloads), false),
        _ => {
            eprintln!("bramble-loops planners NODES WORKLOADS | head NODES WORKLOADS | pushes NODES WORKLOADS");
            return ExitCode::from(2);
        }
    }
    measure::end()
}

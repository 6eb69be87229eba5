//! CPU time and resident memory of processes and everything they started, from `/proc`.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use anyhow::Context as _;

use crate::stack::Process;

/// `/proc` counts CPU time in hundredths of a second on every Linux (USER_HZ).
const TICK_MS: f64 = 10.0;
const PAGE_BYTES: u64 = 4_096;

/// What all processes of a platform had used at one instant.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    at: Instant,
    trees: Vec<Tree>,
    own_ticks: u64,
}

/// One process of the platform with its descendants.
#[derive(Debug, Clone)]
struct Tree {
    role: String,
    ticks: u64,
    resident: u64,
}

/// What was used between two snapshots.
#[derive(Debug, Clone)]
pub(crate) struct Spent {
    /// The time between them.
    pub(crate) wall: Duration,
    /// CPU milliseconds by role.
    pub(crate) by_role: BTreeMap<String, f64>,
    /// CPU milliseconds of this program: not the platform's, but taken from the same cores.
    pub(crate) own: f64,
}

#[derive(Debug, Clone, Copy)]
struct Stat {
    parent: u32,
    ticks: u64,
    resident: u64,
}

impl Snapshot {
    /// Reads all trees now.
    ///
    /// # Errors
    /// When `/proc` cannot be read or one of the processes is gone.
    pub(crate) fn take(processes: &[Process]) -> anyhow::Result<Self> {
        let all = every_process()?;
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for (pid, stat) in &all {
            children.entry(stat.parent).or_default().push(*pid);
        }
        let trees = processes
            .iter()
            .map(|process| {
                anyhow::ensure!(all.contains_key(&process.pid), "{} ({}) has ended", process.name, process.pid);
                let (ticks, resident) = sum(process.pid, &all, &children);
                Ok(Tree { role: process.role.clone(), ticks, resident })
            })
            .collect::<anyhow::Result<_>>()?;
        let own_ticks = all.get(&std::process::id()).map_or(0, |stat| stat.ticks);
        Ok(Self { at: Instant::now(), trees, own_ticks })
    }

    /// What was used since `earlier`, a snapshot of the same processes.
    pub(crate) fn since(&self, earlier: &Self) -> Spent {
        let mut by_role = BTreeMap::new();
        for (now, then) in self.trees.iter().zip(&earlier.trees) {
            *by_role.entry(now.role.clone()).or_insert(0.0) += now.ticks.saturating_sub(then.ticks) as f64 * TICK_MS;
        }
        Spent {
            wall: self.at.duration_since(earlier.at),
            by_role,
            own: self.own_ticks.saturating_sub(earlier.own_ticks) as f64 * TICK_MS,
        }
    }

    /// Resident MiB of the largest process of a role; 0 when there is none.
    pub(crate) fn largest_mib(&self, role: &str) -> f64 {
        let trees = self.trees.iter().filter(|tree| tree.role == role);
        trees.map(|tree| tree.resident).max().unwrap_or(0) as f64 / (1024.0 * 1024.0)
    }
}

impl Spent {
    /// CPU milliseconds of the platform: all our processes, Postgres and RabbitMQ. The simulator stands for a provider
    /// somewhere else and is not counted.
    pub(crate) fn platform(&self) -> f64 {
        self.by_role.iter().filter(|(role, _)| *role != "simulator").map(|(_, spent)| spent).sum()
    }

    /// CPU milliseconds of one role.
    pub(crate) fn of(&self, role: &str) -> f64 {
        self.by_role.get(role).copied().unwrap_or(0.0)
    }

    /// `gateway 0.05, status 0.11, ..` in milliseconds per piece, and what the load generator took.
    pub(crate) fn per(&self, pieces: f64) -> String {
        let mut parts: Vec<String> =
            self.by_role.iter().map(|(role, spent)| format!("{role} {:.3}", spent / pieces)).collect();
        parts.push(format!("load generator {:.3}", self.own / pieces));
        parts.join(", ")
    }
}

/// CPU and memory of a tree. The times of children that have ended are in their parent's sums, so nothing gets lost
/// between two snapshots.
fn sum(root: u32, all: &HashMap<u32, Stat>, children: &HashMap<u32, Vec<u32>>) -> (u64, u64) {
    let mut waiting = vec![root];
    let (mut ticks, mut resident) = (0, 0);
    while let Some(pid) = waiting.pop() {
        if let Some(stat) = all.get(&pid) {
            ticks += stat.ticks;
            resident += stat.resident;
        }
        waiting.extend(children.get(&pid).into_iter().flatten());
    }
    (ticks, resident)
}

fn every_process() -> anyhow::Result<HashMap<u32, Stat>> {
    let entries = std::fs::read_dir("/proc").context("listing the processes in `/proc`")?;
    Ok(entries
        .filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            // A process may end between the listing and the reading.
            let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, parse(&text)?))
        })
        .collect())
}

/// The fields of proc(5) `stat`, counted from the state, which follows the name in parentheses.
fn parse(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(number(1)?).ok()?,
        ticks: number(11)? + number(12)? + number(13)? + number(14)?,
        resident: number(21)? * PAGE_BYTES,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let line = "42 (beam (smp) 1) S 7 42 42 0 -1 4194560 1 2 3 4 100 50 20 10 20 0 30 0 99 123456 512 18446744073709551615 0";

        let stat = parse(line).unwrap();

        assert_eq!((stat.parent, stat.ticks, stat.resident), (7, 180, 512 * 4_096));
    }

    #[test]
    fn this_process_is_found_with_its_memory() {
        let me = Process { role: "bench".into(), name: "bench".into(), pid: std::process::id() };

        let first = Snapshot::take(std::slice::from_ref(&me)).unwrap();
        let second = Snapshot::take(&[me]).unwrap();

        assert!(first.largest_mib("bench") > 0.5);
        assert!(second.since(&first).of("bench") >= 0.0);
    }
}

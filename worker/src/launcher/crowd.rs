//! Launchers that start a command many times over: under one of them `octrain train`, which is a whole job, would be
//! as many jobs as tasks, each unaware of the others.

/// A launcher that started this process as one of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{variable}={tasks}: {launcher} starts this command {tasks} times, and `octrain train` is a whole job, so there \
     would be {tasks} of them. Run octrain-coordinator once and `octrain launch --coordinator HOST:PORT \
     --nproc-per-node N -- FLAGS` as one task per node; for one job on this node start one task; for {tasks} jobs that \
     have nothing to do with each other, unset {variable} (env -u {variable} octrain train ...) and give each its own \
     --output-dir"
)]
pub struct Crowd {
    /// The variable that says so.
    pub variable: &'static str,
    /// Its value.
    pub tasks: u32,
    /// Whose variable it is.
    pub launcher: &'static str,
}

/// Number of tasks, whose it is, and a variable that is set only in a process started as one of them: a batch script
/// of SLURM, for example, knows the number of tasks without being one.
const LAUNCHERS: [(&str, &str, &str); 4] = [
    ("SLURM_STEP_NUM_TASKS", "srun", "SLURM_PROCID"),
    ("OMPI_COMM_WORLD_SIZE", "mpirun", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "mpiexec", "PMI_RANK"),
    ("WORLD_SIZE", "torchrun or an operator of its kind", "RANK"),
];

/// Who started this process together with others, if anybody did; `env` looks a variable up.
pub fn crowd(env: impl Fn(&str) -> Option<String>) -> Option<Crowd> {
    LAUNCHERS.iter().find_map(|&(variable, launcher, place)| {
        let tasks: u32 = env(variable)?.trim().parse().ok()?;
        (tasks > 1 && env(place).is_some()).then_some(Crowd { variable, tasks, launcher })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_of_several_tasks_is_a_crowd() {
        type Case<'a> = (&'a [(&'a str, &'a str)], Option<(&'a str, u32)>);
        let cases: [Case; 9] = [
            (&[], None),
            (&[("SLURM_STEP_NUM_TASKS", "4"), ("SLURM_PROCID", "0")], Some(("SLURM_STEP_NUM_TASKS", 4))),
            (&[("SLURM_STEP_NUM_TASKS", "1"), ("SLURM_PROCID", "0")], None),
            // A batch script of four tasks, which runs once.
            (&[("SLURM_NTASKS", "4"), ("SLURM_PROCID", "0")], None),
            (
                &[("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_RANK", "1")],
                Some(("OMPI_COMM_WORLD_SIZE", 2)),
            ),
            (&[("PMI_SIZE", "3"), ("PMI_RANK", "2")], Some(("PMI_SIZE", 3))),
            (&[("WORLD_SIZE", "8"), ("RANK", "7")], Some(("WORLD_SIZE", 8))),
            // Left over from something else.
            (&[("WORLD_SIZE", "8")], None),
            (&[("OMPI_COMM_WORLD_SIZE", "two"), ("OMPI_COMM_WORLD_RANK", "0")], None),
        ];
        for (given, expected) in cases {
            let look = |name: &str| given.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string());
            assert_eq!(crowd(look).map(|c| (c.variable, c.tasks)), expected, "{given:?}");
        }
    }
}

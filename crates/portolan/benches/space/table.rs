//! Medians of repeated runs, and a table that sets them side by side with the ratio that is asked for.

use std::time::{Duration, Instant};

/// Runs of which the median counts.
const RUNS: usize = 15;

/// A time that the measured code took itself, when set-up must stay out.
pub struct Timed(pub Duration);

/// What a measured run gives: nothing, and all of it counts, or the time that does.
pub trait Outcome {
    fn time(self, whole: Duration) -> Duration;
}

impl Outcome for () {
    fn time(self, whole: Duration) -> Duration {
        whole
    }
}

impl Outcome for Timed {
    fn time(self, _whole: Duration) -> Duration {
        self.0
    }
}

/// The median cost of one of `turns` turns, in nanoseconds.
pub fn measure<T: Outcome>(turns: u64, mut run: impl FnMut(u64) -> T) -> f64 {
    let _warm = run(turns);
    let mut costs: Vec<f64> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            let outcome = run(turns);
            outcome.time(start.elapsed()).as_nanos() as f64 / turns as f64
        })
        .collect();
    costs.sort_by(f64::total_cmp);
    costs[RUNS / 2]
}

/// Rows of figures, the first column ours, with the ratio of the first to the second.
pub struct Table {
    title: &'static str,
    columns: Vec<&'static str>,
    rows: Vec<(String, Vec<f64>, Option<f64>)>,
}

impl Table {
    pub fn new(title: &'static str, columns: &[&'static str]) -> Self {
        Self {
            title,
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; `target` is the most that the ratio should be.
    pub fn row(&mut self, name: &str, figures: &[f64], target: Option<f64>) {
        self.rows.push((name.to_string(), figures.to_vec(), target));
    }

    pub fn print(&self) {
        print!("{:<34}", self.title);
        self.columns
            .iter()
            .for_each(|column| print!("{column:>12}"));
        println!("{:>9}{:>9}", "ratio", "target");
        for (name, figures, target) in &self.rows {
            print!("{name:<34}");
            figures.iter().for_each(|figure| print!("{figure:>12.1}"));
            print!("{:>9.2}", figures[0] / figures[1]);
            match target {
                Some(target) => println!("{target:>9.2}"),
                None => println!("{:>9}", "-"),
            }
        }
    }
}

//! Where the kernel's trace lines and notes go: a file, and a list that is shown when the program is done. Nothing is written to the
//! program's own output.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portolan_kernel::trace::{Log, Sink};

/// A trace file; copies write to the same one.
#[derive(Clone, Debug)]
pub struct Trace(Arc<Mutex<Lines>>);

#[derive(Debug)]
struct Lines {
    file: BufWriter<File>,
    failed: Option<io::Error>,
}

impl Lines {
    /// Does one thing to the file, and keeps the first error.
    fn attempt(&mut self, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) {
        if self.failed.is_none() {
            self.failed = write(&mut self.file).err();
        }
    }
}

impl Trace {
    /// A new file in place of what is there.
    ///
    /// # Errors
    /// Those of opening it.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = BufWriter::new(File::create(path)?);
        Ok(Self(Arc::new(Mutex::new(Lines { file, failed: None }))))
    }

    /// Brings all lines to the file.
    ///
    /// # Errors
    /// The first that writing any line met.
    pub fn finish(&self) -> io::Result<()> {
        let mut lines = lock(&self.0);
        lines.attempt(BufWriter::flush);
        lines.failed.take().map_or(Ok(()), Err)
    }
}

impl Sink for Trace {
    fn line(&self, line: fmt::Arguments<'_>) {
        lock(&self.0).attempt(|file| writeln!(file, "{line}"));
    }
}

/// What the kernel could not do, in the order in which it said so; copies share one list. Goes to the trace as well.
#[derive(Clone, Debug)]
pub struct Notes {
    list: Arc<Mutex<Vec<String>>>,
    trace: Option<Trace>,
}

impl Notes {
    /// An empty list.
    pub fn new(trace: Option<Trace>) -> Self {
        Self {
            list: Arc::default(),
            trace,
        }
    }

    /// What was said so far.
    pub fn list(&self) -> Vec<String> {
        lock(&self.list).clone()
    }
}

impl Log for Notes {
    fn note(&self, message: fmt::Arguments<'_>) {
        if let Some(trace) = &self.trace {
            trace.line(format_args!("+++ {message} +++"));
        }
        lock(&self.list).push(message.to_string());
    }
}

/// The lock of what stays consistent whoever panics: single writes and pushes.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The model thread of a backend, which loads and runs models. (It is not one of Postgres' parallel
//! workers, which are processes.)
//!
//! A backend is single-threaded, and Postgres' signal handlers must run on its only thread. So the
//! backend's thread only waits and processes interrupts, while the model thread loads models and
//! computes, with a pool of threads that it starts. All signals are blocked in the model thread, and
//! therefore in the threads of the pool, because a new thread inherits the signal mask of its creator.
//! None of these threads calls into Postgres.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::Duration;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::guc;
use crate::memory;
use crate::model::compute::{CpuSlots, Pool};
use crate::model::{self, Cache, Cancel, Embedder, Loaded, ModelError};
use crate::types::sql_error;

/// The interval at which the waiting backend checks for interrupts.
const INTERRUPT_POLL: Duration = Duration::from_millis(20);

/// The time after the last job for which a session keeps freed memory, so that a next job within it need not
/// map the memory again.
const MEMORY_RETENTION: Duration = Duration::from_secs(2);

/// The memory that must be available before a job begins: glibc aborts the process if it cannot
/// allocate the thread-local storage of a new thread.
const JOB_START_MEMORY: u64 = 8 << 20;

/// The stack size of the model thread. It has ample reserve, because image decoding and the
/// tokenizer recurse only a little.
const STACK_SIZE: usize = 16 << 20;

/// The models that this session has loaded, by directory. The model thread owns them.
#[derive(Default)]
pub struct Models(HashMap<PathBuf, Loaded>);

impl Models {
    /// Returns the model in `dir`. It is loaded on first use and kept for the session. If the model
    /// was replaced after it was loaded, it is loaded again, because vectors of the old and the new
    /// model must not be mixed. If it was not replaced, the session keeps using the files that it
    /// has mapped, even if the model's directory changes or disappears.
    pub fn get(
        &mut self,
        dir: &Path,
        cache: &Cache,
        cancel: &Cancel,
    ) -> Result<&dyn Embedder, ModelError> {
        let recorded = cache.recorded(dir);
        let current = |loaded: &Loaded| {
            recorded.is_none() || recorded.as_ref() == Some(&loaded.packed.fingerprint)
        };
        if !self.0.get(dir).is_some_and(current) {
            let loaded = model::load(dir, cache, cancel)?;
            self.0.insert(dir.to_owned(), loaded);
        }
        self.0
            .get(dir)
            .map(|loaded| loaded.embedder.as_ref())
            .ok_or(ModelError::NotFound)
    }
}

type Job = Box<dyn FnOnce(&mut Models) + Send>;

thread_local! {
    static MODEL_THREAD: RefCell<Option<Sender<Job>>> = const { RefCell::new(None) };
}

/// Cancels the job when the backend stops waiting for it, because of an error or because the result has arrived.
struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Runs `job` on the model thread and waits for its result. A cancel request, `statement_timeout`
/// and other interrupts end the wait within [`INTERRUPT_POLL`]; the job then ends at its next
/// cancellation check.
///
/// # Errors
/// If no thread can be started, or if the job panics. An error that the job itself returns is part
/// of `T`.
pub fn run<T: Send + 'static>(
    job: impl FnOnce(&mut Models, &Cancel) -> T + Send + 'static,
) -> Result<T, ErrorReport> {
    // A short job may finish before the wait checks for interrupts for the first time. Checking
    // here makes a loop of short jobs cancellable.
    pgrx::check_for_interrupts!();
    memory::ask(JOB_START_MEMORY).map_err(|_| out_of_memory())?;
    let cancel = Cancel::new();
    let (send, receive) = mpsc::sync_channel(1);
    let job_cancel = cancel.clone();
    let boxed: Job = Box::new(move |models| {
        let result = catch_unwind(AssertUnwindSafe(|| job(models, &job_cancel)));
        // If the query was cancelled, the receiver is gone and the result is discarded.
        drop(send.send(result));
    });
    submit(boxed)?;
    let cancel_on_drop = CancelOnDrop(cancel);
    loop {
        match receive.recv_timeout(INTERRUPT_POLL) {
            Ok(Ok(result)) => return Ok(result),
            // A panic while memory is low is attributed to the lack of memory.
            Ok(Err(panic)) if memory::is_low() => {
                let report = out_of_memory();
                return Err(report.set_detail(panic_message(panic.as_ref())));
            }
            Ok(Err(panic)) => return Err(internal(&panic_message(panic.as_ref()))),
            Err(RecvTimeoutError::Timeout) => {
                pgrx::check_for_interrupts!();
                exit_if_postmaster_died();
            }
            Err(RecvTimeoutError::Disconnected) => {
                drop(cancel_on_drop);
                return Err(internal("the thread that runs models has ended"));
            }
        }
    }
}

fn out_of_memory() -> ErrorReport {
    sql_error(PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY, "out of memory")
}

/// Ends the backend if the postmaster has died, as Postgres' own waits do with
/// `WL_EXIT_ON_PM_DEATH`. A backend that survived would prevent a new postmaster from starting.
fn exit_if_postmaster_died() {
    // SAFETY: the postmaster sets `PostmasterPid` before it starts any backend, and every backend
    // is its child.
    unsafe {
        if pg_sys::IsUnderPostmaster && libc::getppid() != pg_sys::PostmasterPid {
            pg_sys::proc_exit(1);
        }
    }
}

fn internal(message: &str) -> ErrorReport {
    sql_error(
        PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
        format!("running the model failed: {message}"),
    )
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic".to_owned())
}

/// Sends a job to the model thread. The first job starts the thread.
fn submit(job: Job) -> Result<(), ErrorReport> {
    MODEL_THREAD.with_borrow_mut(|started| {
        let sender = match started {
            Some(sender) => sender,
            None => started.insert(start()?),
        };
        sender.send(job).map_err(|_| {
            *started = None;
            internal("the thread that runs models has ended")
        })
    })
}

/// Starts the model thread with all signals blocked.
fn start() -> Result<Sender<Job>, ErrorReport> {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    // More threads than processors would only take memory and slow down other sessions.
    let threads = guc::threads().unwrap_or(processors).min(processors);
    let slots_dir = guc::cache_dir();
    // SAFETY: the backend is single-threaded until the thread below starts. (If that thread has ended
    // and is started again, no model runs that could read the environment.)
    unsafe { model::limit_threads(threads) };
    retain_freed_memory();
    let (sender, jobs) = mpsc::channel::<Job>();
    let (report_start, start_result) = mpsc::sync_channel(1);
    let spawned = with_signals_blocked(|| {
        std::thread::Builder::new()
            .name("photosearch 0".to_owned())
            .stack_size(STACK_SIZE)
            .spawn(move || run_jobs(jobs, &report_start, threads, processors, slots_dir))
    })?;
    let ended = || Err(io::Error::other("the thread has ended"));
    spawned
        .and_then(|_| start_result.recv().unwrap_or_else(|_| ended()))
        .map(|()| sender)
        .map_err(|error| {
            sql_error(
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
                format!("could not start the threads that run models: {error}"),
            )
        })
}

/// Makes glibc keep the memory that one layer of a model frees for the next layer. With the default
/// thresholds it would return every freed block of more than 128 kB to the system immediately. The kernel
/// would then map and zero the memory of every layer again, which takes a tenth of the time of an
/// embedding. [`trim_heap`] returns the memory later.
fn retain_freed_memory() {
    #[cfg(target_env = "gnu")]
    {
        // The maximum that glibc accepts for `M_MMAP_THRESHOLD` (`DEFAULT_MMAP_THRESHOLD_MAX`).
        const MMAP_THRESHOLD: libc::c_int = 32 << 20;
        const TRIM_THRESHOLD: libc::c_int = 256 << 20;
        // SAFETY: mallopt has no preconditions, and these parameters may be changed at any time.
        // The result is ignored, because a refused setting would only cost speed.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD);
            libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD);
            // One arena for all threads: by default each thread has its own, which reserves 64 MB of
            // address space. When an arena cannot grow any more, glibc maps at least a page for each
            // allocation, even of a few bytes.
            libc::mallopt(libc::M_ARENA_MAX, 1);
        }
    }
}

/// Returns freed memory to the system.
fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The main function of the model thread: runs jobs in the pool until the backend ends.
fn run_jobs(
    jobs: Receiver<Job>,
    report_start: &SyncSender<io::Result<()>>,
    threads: usize,
    processors: usize,
    slots_dir: PathBuf,
) {
    let (mut pool, result) = match Pool::new(threads) {
        Ok(pool) => (Some(pool), Ok(())),
        Err(error) => (None, Err(error)),
    };
    // This cannot fail, because the backend's thread waits for the result.
    drop(report_start.send(result));
    let Some(pool) = &mut pool else { return };
    let mut slots = CpuSlots::new(slots_dir, processors);
    let mut models = Models::default();
    loop {
        let job = match jobs.recv_timeout(MEMORY_RETENTION) {
            Err(RecvTimeoutError::Timeout) => {
                trim_heap();
                jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
            }
            job => job,
        };
        let Ok(job) = job else { return };
        let taken = slots.take(threads);
        pool.set_width(taken.threads());
        pool.install(|| job(&mut models));
    }
}

/// Calls `start` with all signals blocked in this thread, and then restores the signal mask.
fn with_signals_blocked<T>(start: impl FnOnce() -> T) -> Result<T, ErrorReport> {
    // SAFETY: sigfillset and pthread_sigmask initialize both sets before they are read.
    unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        let mut before = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&mut all);
        if libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before) != 0 {
            return Err(internal("could not block signals"));
        }
        let result = start();
        if libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut()) != 0 {
            return Err(internal("could not restore the signal mask"));
        }
        Ok(result)
    }
}

//! The thread that runs models.
//!
//! A backend is single-threaded, and Postgres' signal handlers must run on its one thread. So
//! the backend's thread only waits, answering interrupts, while a thread of our own loads models
//! and computes, with a pool of threads that it starts. Every signal is blocked in it, and so in
//! the pool's threads (a new thread inherits its creator's mask). None calls into Postgres.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::guc;
use crate::memory;
use crate::model::compute::{Pool, Seats, configure_thread};
use crate::model::{self, Cache, Cancel, Embedder, Loaded, ModelError};
use crate::types::sql_error;

/// How often the waiting backend looks for an interrupt.
const INTERRUPT_POLL: Duration = Duration::from_millis(20);

/// How long after the last job a session keeps the memory that it took.
const MEMORY_KEPT: Duration = Duration::from_secs(2);

/// Memory that there has to be before a job begins: glibc ends the process where it cannot allocate
/// the thread-local storage of a new thread.
const STARTING: u64 = 8 << 20;

/// Decoding and the tokenizer recurse little; this is room to spare.
const STACK_SIZE: usize = 16 << 20;

/// The models that this session has loaded, by directory. They belong to the thread.
#[derive(Default)]
pub struct Models(HashMap<PathBuf, Loaded>);

impl Models {
    /// The model in `dir`, loaded on its first use and kept for the session, unless it is replaced
    /// meanwhile: old and new vectors must not mix. While nobody replaces it, a session goes on
    /// with what it has mapped, whatever becomes of the model's files.
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
    static WORKER: RefCell<Option<Sender<Job>>> = const { RefCell::new(None) };
}

/// Stops the job when the backend stops waiting for it, by an error or otherwise.
struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Runs `job` on the worker thread and waits for it. Ctrl-C, `statement_timeout` and the like end
/// the wait at once, and the job where it next looks.
///
/// # Errors
/// Where no thread can be started, or the job panics. What the job itself returns is the caller's.
pub fn run<T: Send + 'static>(
    job: impl FnOnce(&mut Models, &Cancel) -> T + Send + 'static,
) -> Result<T, ErrorReport> {
    // A job may be over before the wait looks for the first time, and another follows it.
    pgrx::check_for_interrupts!();
    memory::ask(STARTING).map_err(|_| out_of_memory())?;
    let cancel = Cancel::new();
    let (send, receive) = mpsc::sync_channel(1);
    let job_cancel = cancel.clone();
    let boxed: Job = Box::new(move |models| {
        let result = catch_unwind(AssertUnwindSafe(|| job(models, &job_cancel)));
        // Nobody waits any more where the query was cancelled: there is nobody to tell.
        drop(send.send(result));
    });
    submit(boxed)?;
    let cancel_on_drop = CancelOnDrop(cancel);
    loop {
        match receive.recv_timeout(INTERRUPT_POLL) {
            Ok(Ok(result)) => return Ok(result),
            // Whatever it ended in came of that.
            Ok(Err(panic)) if memory::is_low() => {
                let report = out_of_memory();
                return Err(report.set_detail(panic_message(panic.as_ref())));
            }
            Ok(Err(panic)) => return Err(internal(&panic_message(panic.as_ref()))),
            Err(RecvTimeoutError::Timeout) => {
                pgrx::check_for_interrupts!();
                end_without_postmaster();
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

/// Ends the backend where the postmaster has died, as Postgres' own waits do
/// (`WL_EXIT_ON_PM_DEATH`): a backend that lives on keeps a new postmaster from starting.
fn end_without_postmaster() {
    // SAFETY: the postmaster's process id is set before any backend runs, and a backend is its
    // child.
    unsafe {
        if pg_sys::IsUnderPostmaster && libc::getppid() != pg_sys::PostmasterPid {
            pg_sys::proc_exit(1);
        }
    }
}

fn internal(message: &str) -> ErrorReport {
    sql_error(
        PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
        format!("embedding failed: {message}"),
    )
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic".to_owned())
}

/// Hands a job to the worker, which is started first where there is none.
fn submit(job: Job) -> Result<(), ErrorReport> {
    WORKER.with_borrow_mut(|worker| {
        let sender = match worker {
            Some(sender) => sender,
            None => worker.insert(start()?),
        };
        sender.send(job).map_err(|_| {
            *worker = None;
            internal("the thread that runs models has ended")
        })
    })
}

/// Starts the worker, with every signal blocked from its first instruction on.
fn start() -> Result<Sender<Job>, ErrorReport> {
    let threads = guc::threads();
    let seats = guc::cache_dir();
    keep_freed_memory();
    let (sender, jobs) = mpsc::channel::<Job>();
    let spawned = with_signals_blocked(|| {
        std::thread::Builder::new()
            .name("photosearch 0".to_owned())
            .stack_size(STACK_SIZE)
            .spawn(move || serve(jobs, threads, seats))
    })?;
    spawned.map(|_| sender).map_err(|error| {
        sql_error(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
            format!("could not start a thread to embed: {error}"),
        )
    })
}

/// Lets the allocator keep what a layer frees for the next one. By default it gives a few hundred
/// kilobytes back to the system at once, and every layer's memory would be mapped, and zeroed by
/// the kernel, anew: a tenth of the time. [`give_back_memory`] follows.
fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    {
        // The most that glibc takes for the first.
        const MAPPED: libc::c_int = 32 << 20;
        const KEPT: libc::c_int = 256 << 20;
        // SAFETY: all are settings of the allocator that may be changed at any time. That one is
        // refused would cost speed alone.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED);
            libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
            // An arena for each thread would take 64 MB of address space, and where it can't grow
            // any more, a page of memory for every few bytes.
            libc::mallopt(libc::M_ARENA_MAX, 1);
        }
    }
}

/// Gives what was freed back to the system.
fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: has no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Runs jobs, in the pool's threads, until the backend ends.
fn serve(jobs: Receiver<Job>, threads: Option<usize>, seats: PathBuf) {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    // More threads than processors would only take memory and slow other sessions down.
    let threads = threads.unwrap_or(processors).min(processors);
    configure_thread();
    // Where a thread can't be started, the jobs are dropped, and who waits for one is told so.
    let Ok(mut pool) = Pool::new(threads, configure_thread) else {
        return;
    };
    let mut seats = Seats::new(seats, processors);
    let mut models = Models::default();
    loop {
        let job = match jobs.recv_timeout(MEMORY_KEPT) {
            Err(RecvTimeoutError::Timeout) => {
                give_back_memory();
                jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
            }
            job => job,
        };
        let Ok(job) = job else { return };
        let taken = seats.take(threads);
        pool.set_width(taken.threads());
        pool.install(|| job(&mut models));
    }
}

/// Runs `start` with all signals blocked in this thread, and restores the mask.
fn with_signals_blocked<T>(start: impl FnOnce() -> T) -> Result<T, ErrorReport> {
    // SAFETY: both sets are initialised by the calls before they are read.
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

//! What a model's name stands for has changed: how every session of the server learns of it.
//!
//! Sessions keep plans with vectors that were embedded while planning, as constants. Postgres makes
//! plans anew when a shared invalidation message says so (`utils/cache/inval.c`), and a message for
//! database 0 reaches the sessions of all databases. It is in memory alone: it reaches sessions of
//! a standby, where the standby's own files were replaced, and no rollback takes it back, as none
//! gives the old files back.

use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::pg_sys;
use pgrx::prelude::*;

/// Rises whenever this session is told that a model may have been replaced.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// The catalog cache whose invalidation makes all plans anew: `InitPlanCache` of Postgres'
/// `plancache.c` watches some caches as a whole. Of those, operators in operator families change
/// most rarely, and no other code of Postgres' own listens to it.
const WATCHED: pg_sys::SysCacheIdentifier::Type = pg_sys::SysCacheIdentifier::AMOPOPID;

/// Differs from an earlier value if a model may have been replaced since.
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

/// Called once, when the library is loaded.
pub fn register() {
    // SAFETY: the callback only adds to a counter.
    unsafe {
        pg_sys::CacheRegisterSyscacheCallback(WATCHED as i32, Some(note), pg_sys::Datum::null());
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn note(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// [`announce`]s when dropped, after an error too.
pub struct AnnounceOnDrop;

impl Drop for AnnounceOnDrop {
    fn drop(&mut self) {
        announce();
    }
}

/// Tells all sessions of all databases, this one too, to plan anew and to forget folded
/// expressions of indexes and domains. Each acts on it when it begins a transaction, and in one when
/// a statement names a table that it has not locked yet.
fn announce() {
    let plans = pg_sys::SharedInvalidationMessage {
        cc: pg_sys::SharedInvalCatcacheMsg {
            id: WATCHED as i8,
            dbId: pg_sys::InvalidOid,
            // Every entry.
            hashValue: 0,
        },
    };
    let relations = pg_sys::SharedInvalidationMessage {
        rc: pg_sys::SharedInvalRelcacheMsg {
            id: pg_sys::SHAREDINVALRELCACHE_ID as i8,
            dbId: pg_sys::InvalidOid,
            // Every relation, as CacheInvalidateRelcacheAll has it.
            relId: pg_sys::InvalidOid,
        },
    };
    let domains = pg_sys::SharedInvalidationMessage {
        cc: pg_sys::SharedInvalCatcacheMsg {
            // typcache.c makes the CHECKs of domains anew.
            id: pg_sys::SysCacheIdentifier::CONSTROID as i8,
            dbId: pg_sys::InvalidOid,
            hashValue: 0,
        },
    };
    let messages = [plans, relations, domains];
    // SAFETY: messages of forms that `storage/sinval.h` defines.
    unsafe { pg_sys::SendSharedInvalidMessages(messages.as_ptr(), messages.len() as i32) }
}

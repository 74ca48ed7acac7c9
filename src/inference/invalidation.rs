//! Invalidation in all sessions of the server after a model has been replaced.
//!
//! Sessions keep plans that contain vectors as constants, because texts are embedded while
//! planning. Postgres invalidates plans when a shared invalidation message says so
//! (`utils/cache/inval.c`), and a message for database 0 reaches the sessions of all databases.
//! Such a message is not written to WAL. So it can also be sent on a standby, where somebody has
//! replaced the files of the standby. A rollback does not revoke it, which is right, because a
//! rollback does not restore the old files either.

use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::pg_sys;
use pgrx::prelude::*;

/// Incremented whenever this session receives the message that a model may have been replaced.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// The catalog cache whose invalidation makes Postgres replan everything. `InitPlanCache` of
/// `plancache.c` registers callbacks for several caches that invalidate all plans. Of these caches,
/// the one for operators in operator families changes most rarely. Postgres' other callbacks for it
/// (in `predtest.c`, for instance) only empty caches that it fills again.
const PLAN_INVALIDATING_CACHE: pg_sys::SysCacheIdentifier::Type =
    pg_sys::SysCacheIdentifier::AMOPOPID;

/// A counter: if it differs from an earlier value, then a model may have been replaced in between.
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

/// Called once, when the library is loaded.
pub fn register() {
    // SAFETY: the callback only increments a counter, so it may run at any time.
    unsafe {
        pg_sys::CacheRegisterSyscacheCallback(
            PLAN_INVALIDATING_CACHE as i32,
            Some(count_invalidation),
            pg_sys::Datum::null(),
        );
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn count_invalidation(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// Sends the invalidation messages when it is dropped, so that they are sent after an error, too.
pub struct InvalidateOnDrop;

impl Drop for InvalidateOnDrop {
    fn drop(&mut self) {
        send_invalidations();
    }
}

/// Makes all sessions of all databases, including this one, discard their plans and the expressions
/// of indexes and domains that contain folded constants. A session processes the messages when it
/// begins a transaction, and within a transaction when it locks a table that it has not locked
/// before.
fn send_invalidations() {
    let plans = pg_sys::SharedInvalidationMessage {
        cc: pg_sys::SharedInvalCatcacheMsg {
            id: PLAN_INVALIDATING_CACHE as i8,
            dbId: pg_sys::InvalidOid,
            // To the callbacks, a hash value of 0 means every entry of the cache.
            hashValue: 0,
        },
    };
    let relations = pg_sys::SharedInvalidationMessage {
        rc: pg_sys::SharedInvalRelcacheMsg {
            id: pg_sys::SHAREDINVALRELCACHE_ID as i8,
            dbId: pg_sys::InvalidOid,
            // An invalid OID means every relation, as in CacheInvalidateRelcacheAll.
            relId: pg_sys::InvalidOid,
        },
    };
    let domains = pg_sys::SharedInvalidationMessage {
        cc: pg_sys::SharedInvalCatcacheMsg {
            // This invalidation makes typcache.c rebuild the CHECK constraints of domains.
            id: pg_sys::SysCacheIdentifier::CONSTROID as i8,
            dbId: pg_sys::InvalidOid,
            hashValue: 0,
        },
    };
    let messages = [plans, relations, domains];
    // SAFETY: every message is one of the kinds that `storage/sinval.h` defines, fully initialized.
    unsafe { pg_sys::SendSharedInvalidMessages(messages.as_ptr(), messages.len() as i32) }
}

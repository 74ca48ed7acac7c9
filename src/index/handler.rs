//! What Postgres has to know of the access method: a list of its callbacks.

use pgrx::prelude::*;
use pgrx::{Internal, pg_sys};

use super::opclass::{self, Strategy};
use super::{build, cost, insert, options, scan, vacuum};

/// `mrl_handler(internal) returns index_am_handler`. Postgres calls it without an argument; the
/// declared one keeps it from being called in SQL.
#[pg_extern(sql = false)]
fn mrl_handler() -> Internal {
    // SAFETY: the node is zeroed, and each field is then what `access/amapi.h` says; a field that is
    // left null or false means that we can't do what it is for.
    unsafe {
        let mut am = PgBox::<pg_sys::IndexAmRoutine>::alloc_node(pg_sys::NodeTag::T_IndexAmRoutine);
        am.amstrategies = Strategy::ALL.len() as u16;
        am.amcanparallel = true;
        am.amparallelvacuumoptions = (pg_sys::VACUUM_OPTION_PARALLEL_BULKDEL
            | pg_sys::VACUUM_OPTION_PARALLEL_COND_CLEANUP)
            as u8;
        am.amkeytype = pg_sys::InvalidOid;

        am.ambuild = Some(build::ambuild);
        am.ambuildempty = Some(build::ambuildempty);
        am.aminsert = Some(insert::aminsert);
        am.ambulkdelete = Some(vacuum::ambulkdelete);
        am.amvacuumcleanup = Some(vacuum::amvacuumcleanup);
        am.amcostestimate = Some(cost::amcostestimate);
        am.amoptions = Some(options::amoptions);
        am.amvalidate = Some(opclass::amvalidate);
        am.ambeginscan = Some(scan::ambeginscan);
        am.amrescan = Some(scan::amrescan);
        am.amgettuple = Some(scan::amgettuple);
        am.amgetbitmap = Some(scan::amgetbitmap);
        am.amendscan = Some(scan::amendscan);
        am.amestimateparallelscan = Some(scan::amestimateparallelscan);
        am.aminitparallelscan = Some(scan::aminitparallelscan);
        am.amparallelrescan = Some(scan::amparallelrescan);
        Internal::from(Some(pg_sys::Datum::from(am.into_pg())))
    }
}

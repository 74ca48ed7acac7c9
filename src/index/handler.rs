//! The handler function of the access method, which returns its properties and callbacks.

use pgrx::prelude::*;
use pgrx::{Internal, pg_sys};

use super::block_queue::Shared;
use super::opclass::{self, Strategy};
use super::{build, cost, insert, options, scan, vacuum};
use crate::version;

/// `mrl_handler(internal) returns index_am_handler`. Postgres calls it without an argument. The
/// declared argument prevents calls from SQL.
#[pg_extern(sql = false)]
fn mrl_handler() -> Internal {
    // SAFETY: `alloc_node` zeroes the struct. The fields are then set as `access/amapi.h` requires;
    // null or false in a field means that the access method does not support that feature.
    unsafe {
        let mut am = PgBox::<pg_sys::IndexAmRoutine>::alloc_node(pg_sys::NodeTag::T_IndexAmRoutine);
        am.amstrategies = Strategy::ALL.len() as u16;
        am.amcanorderbyop = true;
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
        am.amestimateparallelscan = Some(version::estimate_parallel_scan::<Shared>);
        am.aminitparallelscan = Some(scan::aminitparallelscan);
        am.amparallelrescan = Some(scan::amparallelrescan);
        Internal::from(Some(pg_sys::Datum::from(am.into_pg())))
    }
}

//! Recordings of PostgreSQL and its clients.

use crate::captured::assert_counts;

#[test]
fn the_recorded_programs() {
    assert_counts(
        "postgresql-programs",
        &[
            "1 CREATE items - None",
            "1 INSERT items - None",
            "2 SELECT items - None",
            "2 COPY items - None",
            "1 OTHER  42601 Client",
            "1 SELECT other 42P01 Client",
            "17 BEGIN  - None",
            "1 UPDATE items - None",
            "17 COMMIT  - None",
            "1 SELECT  - None",
            "1 SELECT  22012 Client",
            "1 OTHER  - None",
            "4 SELECT pg_catalog.pg_class - None",
            "1 VACUUM  - None",
            "1 DROP pgbench_accounts - None",
            "1 CREATE pgbench_history - None",
            "1 CREATE pgbench_tellers - None",
            "1 CREATE pgbench_accounts - None",
            "1 CREATE pgbench_branches - None",
            "1 TRUNCATE pgbench_accounts - None",
            "1 INSERT pgbench_branches - None",
            "1 INSERT pgbench_tellers - None",
            "1 INSERT pgbench_accounts - None",
            "1 ALTER pgbench_branches - None",
            "1 ALTER pgbench_tellers - None",
            "1 ALTER pgbench_accounts - None",
            "3 SELECT pgbench_branches - None",
            "15 UPDATE pgbench_accounts - None",
            "15 SELECT pgbench_accounts - None",
            "15 UPDATE pgbench_tellers - None",
            "15 UPDATE pgbench_branches - None",
            "15 INSERT pgbench_history - None",
            "2 PREPARE  - None",
            "2 PREPARE pgbench_accounts - None",
            "1 PREPARE pgbench_tellers - None",
            "1 PREPARE pgbench_branches - None",
            "1 PREPARE pgbench_history - None",
        ],
    );
}

#[test]
fn the_recorded_psycopg() {
    assert_counts(
        "postgresql-psycopg",
        &[
            "7 BEGIN  - None",
            "10 SELECT items - None",
            "1 PREPARE items - None",
            "2 SELECT other 42P01 Client",
            "3 ROLLBACK  - None",
            "2 DEALLOCATE  - None",
            "1 INSERT items 23505 Client",
            "8 UPDATE items - None",
            "3 COMMIT  - None",
            "2 DELETE items PIPELINE_ABORTED Client",
            "2 COPY items - None",
            "5 INSERT items - None",
            "1 DECLARE  - None",
            "1 FETCH  - None",
            "1 CLOSE  - None",
            "1 LISTEN  - None",
            "1 NOTIFY  - None",
        ],
    );
}

#[test]
fn the_recorded_asyncpg() {
    assert_counts(
        "postgresql-asyncpg",
        &[
            "4 PREPARE items - None",
            "6 SELECT items - None",
            "5 INSERT items - None",
            "1 BEGIN  - None",
            "3 FETCH items - None",
            "1 COMMIT  - None",
            "1 PREPARE other 42P01 Client",
            "1 COPY items - None",
        ],
    );
}

#[test]
fn the_recorded_pg8000() {
    assert_counts(
        "postgresql-pg8000",
        &[
            "6 PREPARE items - None",
            "5 SELECT items - None",
            "5 UPDATE items - None",
            "1 SELECT other 42P01 Client",
        ],
    );
}

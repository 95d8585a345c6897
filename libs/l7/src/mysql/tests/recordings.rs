//! Recordings of MariaDB and its clients.

use crate::captured::assert_counts;

#[test]
fn the_recorded_program() {
    assert_counts(
        "mysql-mariadb-program",
        &[
            "1 CREATE items - None",
            "1 INSERT items - None",
            "2 SELECT items - None",
            "1 LOAD items - None",
            "1 ALTER items - None",
            "1 PREPARE  - None",
            "1 SET  - None",
            "1 EXECUTE  - None",
            "1 OTHER  1064 Client",
            "1 SELECT other 1146 Client",
            "1 INSERT items 1062 Client",
            "1 SHOW  - None",
            "1 DELETE items - None",
            "1 SELECT  - None",
            "1 USE  - None",
        ],
    );
}

#[test]
fn the_recorded_pymysql() {
    assert_counts(
        "mysql-mariadb-pymysql",
        &[
            "2 SET  - None",
            "6 SELECT items - None",
            "1 INSERT items - None",
            "1 COMMIT  - None",
            "1 SELECT  1146 Client",
            "2 ROLLBACK  - None",
            "1 CREATE  - None",
            "1 CALL report - None",
            "1 SELECT other 1146 Client",
            "1 PING  - None",
            "1 USE  - None",
        ],
    );
}

#[test]
fn the_recorded_connector() {
    assert_counts(
        "mysql-mariadb-connector-python",
        &[
            "4 SET  - None",
            "2 PING  - None",
            "2 PREPARE items - None",
            "10 RESET items - None",
            "5 SELECT items - None",
            "5 UPDATE items - None",
            "1 COMMIT  - None",
            "1 PREPARE other 1146 Client",
            "1 RESET_CONNECTION  - None",
            "1 STATISTICS  - None",
        ],
    );
}

//! Operations and tables of statements in either dialect: objects that are no tables, names of a statement's own,
//! comments that are code.

use super::{Dialect, shape};

/// A statement on each line, behind its operation and its table (`-` for none).
const BOTH: &str = "\
SELECT t1 WITH a AS NOT MATERIALIZED (SELECT * FROM t1) SELECT * FROM a
SELECT t1 WITH x AS (SELECT * FROM t1) (SELECT * FROM x)
SELECT nodes WITH RECURSIVE r(n) AS (SELECT id FROM nodes UNION ALL SELECT n.id FROM nodes n JOIN r ON r.n=n.p) SELECT * FROM r
UPDATE t2 WITH x AS (SELECT * FROM t1) UPDATE t2 SET a = 1
DELETE t2 WITH x AS (SELECT * FROM t1) DELETE FROM t2
TABLE - WITH x AS (SELECT * FROM t1) TABLE x
VALUES - WITH x AS (SELECT * FROM t1) VALUES (1)
SELECT t SELECT * FROM (VALUES (1)) v JOIN t ON true
SELECT t SELECT * FROM (SELECT (1)) x JOIN t ON true
SELECT t SELECT * FROM ((SELECT 1)) x, t
SELECT t SELECT * FROM (SELECT 1) x, (SELECT * FROM t) y
SELECT - SELECT * FROM (SELECT 1) x WHERE a IN (SELECT b FROM c)
SELECT - SELECT * FROM current_date
SELECT t SELECT * FROM CURRENT_TIMESTAMP c, t
SELECT s.t SELECT/**/1/**/FROM/**/s . t
SELECT t ;;SELECT(1)FROM(t)
CREATE t CREATE TABLE IF NOT EXISTS t (a int)
CREATE v CREATE OR REPLACE VIEW v AS SELECT * FROM t
CREATE - CREATE FUNCTION f() RETURNS int RETURN 1
CREATE - CREATE UNIQUE INDEX i ON t (a)
CREATE - CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()
CREATE - CREATE SERVER s FOREIGN DATA WRAPPER w OPTIONS (user 'x')
CREATE - CREATE TABLESPACE ts
CREATE - CREATE AGGREGATE ag (int) (sfunc = x)
CREATE - CREATE RESOURCE GROUP g
CREATE - CREATE USER bob
ALTER t ALTER TABLE t ADD a int
ALTER - ALTER INDEX i RENAME TO j
ALTER - ALTER DEFAULT PRIVILEGES IN SCHEMA s GRANT SELECT ON TABLES TO bob
DROP t DROP TABLE IF EXISTS t, u
DROP v DROP VIEW v
DROP - DROP PROCEDURE IF EXISTS p
DROP - DROP PREPARE s
CHECK - CHECK TABLE t
XA - XA START 'x'
";

const POSTGRESQL: &str = "\
DELETE s.t DELETE FROM s.t USING u AS t WHERE true
CREATE ft CREATE FOREIGN TABLE ft (a int) SERVER s
CREATE mv CREATE MATERIALIZED VIEW mv AS SELECT * FROM t
CREATE - CREATE POLICY p ON t
CREATE - CREATE RULE r AS ON INSERT TO t DO NOTHING
CREATE - CREATE PUBLICATION p FOR TABLE t
CREATE - CREATE SUBSCRIPTION s CONNECTION 'host=x password=y' PUBLICATION p
CREATE - CREATE TEXT SEARCH CONFIGURATION c (copy = english)
CREATE - CREATE EVENT TRIGGER et ON ddl_command_start EXECUTE FUNCTION f()
CREATE - CREATE CAST (a AS b) WITHOUT FUNCTION
ALTER - ALTER LARGE OBJECT 1 OWNER TO x
ALTER mv ALTER MATERIALIZED VIEW mv RENAME TO w
DROP - DROP OWNED BY bob
DROP - DROP ACCESS METHOD x
COPY t COPY BINARY t FROM STDIN
ROLLBACK - ABORT
SECURITY - SECURITY LABEL ON TABLE t IS 'x'
LOCK instance LOCK instance IN SHARE MODE
SELECT t SELECT * FROM ROWS FROM (f(1)) x JOIN t ON true
SELECT log WITH x AS (INSERT INTO log(a) VALUES (1) RETURNING id), y AS (UPDATE z SET a=1) SELECT * FROM x
SELECT S.T SELECT 1 FROM \"S\".\"T\" AS \"A\"
";

const MYSQL: &str = "\
SET - /*!40101 SET NAMES utf8mb4 */
SET - /*!40101 SET @saved = @@character_set_client */;
SELECT - /*!SELECT*/ 1
ALTER t /*!40000 ALTER TABLE `t` DISABLE KEYS */
CREATE v /*!50001 CREATE ALGORITHM=UNDEFINED */ /*!50013 DEFINER=`u`@`h` SQL SECURITY DEFINER */ /*!50001 VIEW `v` AS SELECT 1 */
CREATE - /*!50003 CREATE*/ /*!50020 DEFINER=`u`@`h`*/ /*!50003 TRIGGER x BEFORE INSERT ON t FOR EACH ROW SET @a = 1 */
DROP v /*!50001 DROP VIEW IF EXISTS `v`*/
INSERT t INSERT /*!80000 IGNORE */ INTO t VALUES (1)
SELECT t SELECT /*!40001 SQL_NO_CACHE */ * FROM `t`
SELECT z /*!99999 DROP TABLE x */ SELECT 1 FROM z
OTHER - /*M!999999\\- enable the sandbox mode */
SELECT t SELECT /*+ NO_INDEX(t) */ 1 FROM t
CREATE v CREATE ALGORITHM=MERGE DEFINER='u'@'h' SQL SECURITY INVOKER VIEW v AS SELECT * FROM t
CREATE - CREATE DEFINER=CURRENT_USER() PROCEDURE p() SELECT 1
CREATE - CREATE FULLTEXT INDEX i ON t (a)
ALTER t ALTER ONLINE IGNORE TABLE t ADD a int
ALTER - ALTER INSTANCE ROTATE INNODB MASTER KEY
LOCK - LOCK INSTANCE FOR BACKUP
LOCK t LOCK TABLES t READ, u WRITE
UNLOCK - UNLOCK TABLES
LOAD - LOAD INDEX INTO CACHE t
LOAD db.t LOAD DATA LOCAL INFILE 'x INTO TABLE y' INTO TABLE db.t
DESCRIBE - DESCRIBE FORMAT=JSON SELECT * FROM t
DELETE t1 DELETE FROM a USING t1 AS a JOIN t2
DELETE t2 DELETE FROM b USING t1 AS a JOIN db.t3 c, t2 b WHERE a.x = b.x
DELETE t1 DELETE FROM t1 USING t1 JOIN t2
DELETE t1 DELETE a FROM t1 AS a JOIN t2 b
SELECT t SELECT * FROM JSON_TABLE('[]', '$[*]' COLUMNS (a INT PATH '$')) jt, t
";

fn check(dialect: Dialect, statements: &str) {
    let mut table = String::new();
    for line in statements.lines() {
        let mut words = line.splitn(3, ' ');
        let [Some(operation), Some(expected), Some(statement)] = [words.next(), words.next(), words.next()]
        else {
            panic!("three parts: {line}")
        };
        let found = shape(dialect, statement.as_bytes(), true, &mut table);
        assert_eq!(
            (found, table.as_str()),
            (operation, expected.trim_matches('-')),
            "{dialect:?} {statement}"
        );
        // A cut gives no other name; it may hide that one is an alias.
        let cuts = if statement.contains(" USING ") { 0 } else { statement.len() };
        for cut in 0..cuts {
            let statement = statement.get(..cut).unwrap_or_default();
            shape(dialect, statement.as_bytes(), false, &mut table);
            assert!(table.is_empty() || table == expected, "{dialect:?} {statement}: {table}");
        }
    }
}

#[test]
fn statements_of_both_dialects_have_their_operation_and_table() {
    check(Dialect::Mysql, BOTH);
    check(Dialect::Postgresql, BOTH);
}

#[test]
fn statements_of_postgresql_have_their_operation_and_table() {
    check(Dialect::Postgresql, POSTGRESQL);
}

#[test]
fn statements_of_mysql_have_their_operation_and_table() {
    check(Dialect::Mysql, MYSQL);
}

use super::*;

/// Backticks are MySQL's.
fn dialect_of(statement: &str) -> Dialect {
    if statement.contains('`') { Dialect::Mysql } else { Dialect::Postgresql }
}

fn shape_of(statement: &str) -> (&'static str, String) {
    let mut table = String::new();
    let operation = shape(dialect_of(statement), statement.as_bytes(), true, &mut table);
    (operation, table)
}

const STATEMENTS: &[(&str, &str, &str)] = &[
    ("select 1", "SELECT", ""),
    ("SELECT * FROM users WHERE name = 'x FROM y'", "SELECT", "users"),
    ("SELECT a FROM `shop`.`order items` o", "SELECT", "shop.order items"),
    ("SELECT a FROM \"Public\".\"Users\"", "SELECT", "Public.Users"),
    ("/* app:x */ -- y\n SELECT 1 FROM t;", "SELECT", "t"),
    ("SELECT extract(year FROM ts) FROM events", "SELECT", "events"),
    ("SELECT (SELECT max(x) FROM inner1) FROM outer1", "SELECT", "outer1"),
    ("SELECT * FROM (SELECT * FROM deep) d", "SELECT", "deep"),
    ("SELECT * FROM (a JOIN b ON true)", "SELECT", "a"),
    ("SELECT * FROM (SELECT 1) x", "SELECT", ""),
    ("SELECT a IS DISTINCT FROM b FROM t", "SELECT", "t"),
    ("(SELECT 1 FROM t) UNION (SELECT 2 FROM u)", "SELECT", "t"),
    ("SELECT * FROM ONLY parent", "SELECT", "parent"),
    ("WITH x AS (SELECT 1 FROM hidden) SELECT * FROM y JOIN x", "SELECT", "y"),
    ("WITH RECURSIVE x(n) AS (SELECT 1) INSERT INTO log SELECT n FROM x", "INSERT", "log"),
    ("INSERT INTO t (a,b) VALUES (1,'2')", "INSERT", "t"),
    ("INSERT IGNORE INTO db.t SET a=1", "INSERT", "db.t"),
    ("REPLACE INTO t VALUES (1)", "REPLACE", "t"),
    ("UPDATE t SET a = 1", "UPDATE", "t"),
    ("DELETE FROM t WHERE id = $1", "DELETE", "t"),
    ("TRUNCATE TABLE t", "TRUNCATE", "t"),
    ("CREATE TABLE IF NOT EXISTS t (id int)", "CREATE", "t"),
    ("CREATE UNIQUE INDEX i ON t (a)", "CREATE", ""),
    ("DROP TABLE IF EXISTS t", "DROP", "t"),
    ("COPY t (a) FROM STDIN", "COPY", "t"),
    ("LOAD DATA LOCAL INFILE 'x INTO y' IGNORE INTO TABLE `t` FIELDS", "LOAD", "t"),
    ("FETCH FORWARD 100 FROM \"c\"", "FETCH", ""),
    ("COPY (SELECT * FROM t) TO STDOUT", "COPY", "t"),
    ("COPY ((SELECT f(1))) TO STDOUT", "COPY", ""),
    ("begin", "BEGIN", ""),
    ("END", "COMMIT", ""),
    ("SET NAMES utf8mb4", "SET", ""),
    ("CALL do_it(1)", "CALL", "do_it"),
    ("gibberish here", "OTHER", ""),
    ("", "OTHER", ""),
    ("'SELECT'", "OTHER", ""),
];

#[test]
fn statements_have_their_operation_and_table() {
    for (statement, operation, table) in STATEMENTS {
        assert_eq!(shape_of(statement), (*operation, (*table).to_owned()), "{statement}");
    }
}

/// Statements of either dialect with names of their own.
const OWN_NAMES: &[(&str, &str, &str)] = &[
    // A name is the clause's only behind its own statement, unless the clause is recursive.
    ("WITH users AS (SELECT * FROM users WHERE active) SELECT * FROM users", "SELECT", "users"),
    ("WITH a AS (SELECT 1 FROM b), b AS (SELECT 2 FROM c) SELECT * FROM a", "SELECT", "b"),
    ("WITH RECURSIVE t AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT * FROM t", "SELECT", ""),
    ("WITH x AS (SELECT a FROM orders) SELECT * FROM x", "SELECT", "orders"),
    ("WITH x AS (SELECT a FROM orders) SELECT * FROM x JOIN items i ON true", "SELECT", "items"),
    ("WITH x AS (SELECT 1), y (n) AS (SELECT 2) SELECT * FROM y", "SELECT", ""),
    ("WITH RECURSIVE x(n) AS (SELECT 1 UNION SELECT n FROM x) SELECT n FROM x", "SELECT", ""),
    ("WITH x AS MATERIALIZED (SELECT a FROM orders) SELECT * FROM X", "SELECT", "orders"),
    ("WITH x AS (INSERT INTO log VALUES (1) RETURNING id) SELECT * FROM x", "SELECT", "log"),
    ("WITH x AS (SELECT 1) SELECT * FROM public.x", "SELECT", "public.x"),
    ("SELECT * FROM generate_series(1, 10) AS n", "SELECT", ""),
    ("SELECT * FROM unnest(ARRAY['a(', 'b']) u, orders o", "SELECT", "orders"),
    ("SELECT * FROM pg_catalog.generate_series(1, 2) g JOIN t ON true", "SELECT", "t"),
    ("SELECT * FROM (VALUES (1), (2)) v", "SELECT", ""),
    ("SELECT * FROM LATERAL (SELECT * FROM t) l", "SELECT", "t"),
    ("SELECT * FROM ((SELECT * FROM t)) d", "SELECT", "t"),
    ("SELECT 1 FROM DUAL", "SELECT", ""),
    ("DELETE FROM t USING u WHERE t.a = u.a", "DELETE", "t"),
    ("UPDATE t AS a SET b = 1 FROM c", "UPDATE", "t"),
    ("SELECT * FROM a /* , b */ AS c WHERE d = 'FROM e'", "SELECT", "a"),
];

#[test]
fn names_of_a_statements_own_are_no_tables() {
    for (statement, operation, table) in OWN_NAMES {
        assert_eq!(shape_of(statement), (*operation, (*table).to_owned()), "{statement}");
    }
}

/// Shapes of public corpora: the regression tests of `PostgreSQL` and `SQLite`, TPC-H, TPC-DS, what Django, Rails,
/// Hibernate and `SQLAlchemy` send.
const CORPUS: &[(&str, &str, &str)] = &[
    // TPC-H 1, 2, 4, 13, 15, 17, 18, 20, 21, 22
    (
        "select l_returnflag, sum(l_quantity) as sum_qty from lineitem where l_shipdate <= date '1998-12-01' - interval '90' day (3) group by l_returnflag order by l_returnflag",
        "SELECT",
        "lineitem",
    ),
    (
        "select s_acctbal from part, supplier, partsupp, nation, region where p_partkey = ps_partkey and ps_supplycost = (select min(ps_supplycost) from partsupp, supplier) limit 100",
        "SELECT",
        "part",
    ),
    (
        "select o_orderpriority, count(*) from orders where exists (select * from lineitem where l_orderkey = o_orderkey) group by 1",
        "SELECT",
        "orders",
    ),
    (
        "select c_count, count(*) as custdist from (select c_custkey, count(o_orderkey) from customer left outer join orders on c_custkey = o_custkey group by c_custkey) as c_orders (c_custkey, c_count) group by c_count",
        "SELECT",
        "customer",
    ),
    (
        "create view revenue0 (supplier_no, total_revenue) as select l_suppkey, sum(l_extendedprice) from lineitem group by l_suppkey",
        "CREATE",
        "revenue0",
    ),
    (
        "select sum(l_extendedprice) / 7.0 as avg_yearly from lineitem, part where p_partkey = l_partkey and l_quantity < (select 0.2 * avg(l_quantity) from lineitem)",
        "SELECT",
        "lineitem",
    ),
    (
        "select cntrycode, count(*) from (select substring(c_phone from 1 for 2) as cntrycode from customer where substring(c_phone from 1 for 2) in ('13', '31')) as custsale group by cntrycode",
        "SELECT",
        "customer",
    ),
    // TPC-DS 1, 2, 5, 14, 23, 36, 49
    (
        "with customer_total_return as (select sr_customer_sk as ctr_customer_sk from store_returns, date_dim where sr_returned_date_sk = d_date_sk group by 1) select c_customer_id from customer_total_return ctr1, store, customer where s_store_sk = 1 limit 100",
        "SELECT",
        "store",
    ),
    (
        "with wscs as (select sold_date_sk from (select ws_sold_date_sk sold_date_sk from web_sales union all select cs_sold_date_sk from catalog_sales) x), wswscs as (select d_week_seq from wscs, date_dim group by 1) select * from wswscs",
        "SELECT",
        "date_dim",
    ),
    (
        "select 'web' as channel, web.item from (select item, rank() over (order by return_ratio) as r from (select ws.ws_item_sk as item from web_sales ws left outer join web_returns wr on (ws.ws_order_number = wr.wr_order_number)) in_web) web",
        "SELECT",
        "web_sales",
    ),
    (
        "select grouping(i_category)+grouping(i_class) as lochierarchy, rank() over (partition by grouping(i_category) order by sum(ss_net_profit)) from store_sales, item group by rollup(i_category, i_class)",
        "SELECT",
        "store_sales",
    ),
    // PostgreSQL's regression tests
    ("SELECT f.* FROM ONLY emp f", "SELECT", "emp"),
    ("SELECT * FROM J1_TBL AS t1 (a, b, c) CROSS JOIN J2_TBL", "SELECT", "J1_TBL"),
    ("SELECT * FROM rngfunc2(11) with ordinality as z(rngfuncid,f2,ord), rngfunc_t", "SELECT", "rngfunc_t"),
    ("SELECT * FROM ROWS FROM (generate_series(1,3), getrngfunc(2)) AS x, tenk1", "SELECT", "tenk1"),
    ("SELECT * FROM int8_tbl TABLESAMPLE SYSTEM (10)", "SELECT", "int8_tbl"),
    (
        "SELECT * FROM xmltable('/rows/row' PASSING data COLUMNS id int PATH '@id') x, xmldata",
        "SELECT",
        "xmldata",
    ),
    ("SELECT x.* FROM tenk1 x, LATERAL (SELECT * FROM int4_tbl WHERE x.unique1 = f1) ss", "SELECT", "tenk1"),
    ("TABLE pg_class", "TABLE", "pg_class"),
    ("VALUES (1, 2), (3, 4)", "VALUES", ""),
    (
        "WITH moved AS (DELETE FROM products WHERE d < 10 RETURNING *) INSERT INTO products_log SELECT * FROM moved",
        "INSERT",
        "products_log",
    ),
    ("MERGE INTO target t USING source AS s ON t.tid = s.sid WHEN MATCHED THEN DELETE", "MERGE", "target"),
    (
        "INSERT INTO insertconflicttest VALUES (1, 'x') ON CONFLICT (key) DO UPDATE SET fruit = excluded.fruit",
        "INSERT",
        "insertconflicttest",
    ),
    ("UPDATE ONLY update_test * SET a = 1 FROM other WHERE true", "UPDATE", "update_test"),
    ("DELETE FROM ONLY delete_test AS dt WHERE dt.a > 75", "DELETE", "delete_test"),
    ("EXPLAIN (COSTS OFF) SELECT * FROM onek", "EXPLAIN", ""),
    ("DECLARE c CURSOR FOR SELECT * FROM tenk1", "DECLARE", ""),
    ("PREPARE q1(text) AS SELECT * FROM pg_database WHERE datname = $1", "PREPARE", ""),
    ("LOCK TABLE lock_tbl1 IN ACCESS SHARE MODE", "LOCK", "lock_tbl1"),
    ("ALTER TABLE IF EXISTS ONLY part_2 RENAME TO part_3", "ALTER", "part_2"),
    ("CREATE TEMP TABLE tmp AS SELECT * FROM base", "CREATE", "tmp"),
    ("COPY (SELECT * FROM t) TO STDOUT WITH (FORMAT csv)", "COPY", "t"),
    ("VACUUM (ANALYZE) vactst", "VACUUM", ""),
    ("REFRESH MATERIALIZED VIEW CONCURRENTLY mvtest_tm", "REFRESH", ""),
    ("DO $$ BEGIN PERFORM 1 FROM hidden; END $$", "DO", ""),
    // SQLite's
    ("INSERT OR REPLACE INTO t1 VALUES(1,2)", "INSERT", "t1"),
    ("UPDATE OR IGNORE t1 SET a=1", "UPDATE", "t1"),
    ("SELECT * FROM t1 INDEXED BY i1 WHERE a=5", "SELECT", "t1"),
    ("SELECT * FROM [table name]", "SELECT", ""),
    // Object-relational mappers
    (
        r#"SELECT "auth_user"."id", "auth_user"."password" FROM "auth_user" INNER JOIN "auth_group" ON (1 = 1) WHERE "auth_user"."username" = 'alice' LIMIT 21"#,
        "SELECT",
        "auth_user",
    ),
    (
        r#"SELECT COUNT(*) FROM (SELECT DISTINCT ON ("a"."x") "a"."x" AS "col1" FROM "shop_order" "a") subquery"#,
        "SELECT",
        "shop_order",
    ),
    (
        r#"SELECT (1) AS "a" FROM "django_session" WHERE "django_session"."session_key" = 'x' LIMIT 1"#,
        "SELECT",
        "django_session",
    ),
    (
        r#"INSERT INTO "shop_item" ("name") VALUES ('from x') RETURNING "shop_item"."id""#,
        "INSERT",
        "shop_item",
    ),
    (r#"SAVEPOINT "s1""#, "SAVEPOINT", ""),
    (r#"RELEASE SAVEPOINT "s1""#, "RELEASE", ""),
    (
        r#"SELECT "users".* FROM "users" WHERE "users"."id" = $1 LIMIT $2 /*application:Shop,controller:users*/"#,
        "SELECT",
        "users",
    ),
    ("SELECT `users`.* FROM `users` WHERE `users`.`id` = 1 LIMIT 1", "SELECT", "users"),
    ("SELECT 1 AS one FROM `posts` WHERE `posts`.`id` = 1 LIMIT 1 FOR UPDATE", "SELECT", "posts"),
    (
        "select o1_0.id,o1_0.name from orders o1_0 left join items i1_0 on o1_0.id=i1_0.order_id where o1_0.id=?",
        "SELECT",
        "orders",
    ),
    ("select next_val as id_val from hibernate_sequence for update", "SELECT", "hibernate_sequence"),
    (
        "SELECT anon_1.id AS anon_1_id FROM (SELECT users.id AS id FROM users LIMIT ? OFFSET ?) AS anon_1 LEFT OUTER JOIN addresses AS addresses_1 ON anon_1.id = addresses_1.user_id",
        "SELECT",
        "users",
    ),
    (
        "SELECT pg_catalog.pg_class.relname FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON true",
        "SELECT",
        "pg_catalog.pg_class",
    ),
    ("SHOW VARIABLES LIKE 'sql_mode'", "SHOW", ""),
    ("SHOW FULL FIELDS FROM `users`", "SHOW", ""),
    ("SELECT @@session.transaction_isolation", "SELECT", ""),
    ("INSERT INTO t (a) SELECT a FROM s ON DUPLICATE KEY UPDATE a = 1", "INSERT", "t"),
    ("UPDATE LOW_PRIORITY IGNORE t1, t2 SET t1.a = 1", "UPDATE", "t1"),
    ("DELETE t1 FROM t1 JOIN t2 ON t1.id = t2.id", "DELETE", "t1"),
    ("DELETE FROM t1, t2 USING t1 INNER JOIN t2", "DELETE", "t1"),
    ("SELECT STRAIGHT_JOIN a FROM t1 FORCE INDEX (i), t2", "SELECT", "t1"),
    ("SELECT * FROM t1 PARTITION (p0, p1)", "SELECT", "t1"),
    ("SELECT * FROM JSON_TABLE('[1]', '$[*]' COLUMNS (a INT PATH '$')) AS jt, t", "SELECT", "t"),
    ("SELECT /*+ MAX_EXECUTION_TIME(1000) */ * FROM t1", "SELECT", "t1"),
];

#[test]
fn shapes_of_public_corpora_have_their_operation_and_table() {
    let wrong: Vec<String> = CORPUS
        .iter()
        .map(|&(statement, operation, table)| (statement, (operation, table.to_owned()), shape_of(statement)))
        .filter(|(_, expected, found)| expected != found)
        .map(|(statement, expected, found)| format!("{statement}: {found:?}, not {expected:?}"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn literals_of_either_dialect_give_no_names() {
    for (dialect, statement, table) in [
        (Dialect::Postgresql, r"SELECT '\', ' FROM secret ' FROM t", ""),
        (Dialect::Postgresql, r"SELECT E'\' FROM secret' FROM t", "t"),
        (Dialect::Postgresql, "SELECT $a1$ FROM secret $a1$ FROM t", "t"),
        (Dialect::Postgresql, "SELECT /* /* */ FROM secret */ 1 FROM t", "t"),
        (Dialect::Mysql, r"SELECT '\' FROM secret' FROM t", "t"),
        (Dialect::Mysql, r#"SELECT "\" FROM secret" FROM t"#, ""),
        (Dialect::Mysql, r#"SELECT "' FROM secret", 'x' FROM t"#, "t"),
        (Dialect::Mysql, "SELECT * FROM \"secret\"", ""),
        (Dialect::Mysql, "INSERT INTO \"secret\" VALUES (1)", ""),
        (Dialect::Mysql, "SELECT N\"FROM secret\" FROM t", "t"),
    ] {
        let mut found = String::new();
        shape(dialect, statement.as_bytes(), true, &mut found);
        assert_eq!(found, table, "{statement}");
    }
}

#[test]
fn a_cut_statement_never_gives_another_table() {
    let mut table = String::new();
    for (statement, operation, whole) in STATEMENTS.iter().chain(OWN_NAMES) {
        for cut in 0..statement.len() {
            let found = shape(dialect_of(statement), &statement.as_bytes()[..cut], false, &mut table);
            assert!(found == *operation || found == OTHER, "{statement} cut at {cut}: {found}");
            assert!(
                table.is_empty() || table == *whole || whole.starts_with(&format!("{table}.")),
                "{statement} cut at {cut}: {table}"
            );
        }
    }
}

#[test]
fn statements_are_told_apart() {
    for (text, rest) in [
        ("SELECT 1; SELECT 2;", Some(" SELECT 2;")),
        (";; SELECT ';' ;-- ;\n", None),
        ("SELECT ';'; /* ; */ x", Some(" /* ; */ x")),
        ("SELECT 1", None),
        ("SELECT $$;$$;", None),
        ("", None),
    ] {
        assert_eq!(following(Dialect::Postgresql, text.as_bytes()), rest.map(str::as_bytes), "{text}");
    }
}

#[test]
fn literals_never_become_tables() {
    for statement in ["SELECT * FROM 'secret'", "INSERT INTO $x$secret$x$", "UPDATE 'secret' SET a=1"] {
        assert_eq!(shape_of(statement).1, "", "{statement}");
    }
}

#[test]
fn random_bytes_do_no_harm() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut table = String::new();
    for _ in 0..20_000 {
        let mut text = b"SELECT * FROM ".to_vec();
        for _ in 0..24 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            text.push(state.to_le_bytes()[0]);
        }
        shape(Dialect::Postgresql, &text, false, &mut table);
        shape(Dialect::Mysql, &text, false, &mut table);
        assert!(table.len() <= tables::TABLE_MAX && !table.contains(char::is_control));
    }
}

//! Bytes that were not captured, or lost.

use super::*;
use crate::{
    Limits, ParserContext, Side,
    postgres::{ConnectionContext, GapKind, Phase, Postgres, ResponseState},
    symbol::ClientId,
};

#[test]
fn joined_in_the_middle() {
    let answer = s(&[&columns(), &row("7"), &complete("SELECT 1"), READY]);
    expect(
        &[
            s(&[&row("5"), &row("6"), &complete("SELECT 2"), READY]),
            c(&[&query("SELECT a FROM t")]),
            answer.clone(),
            c(&[&query("/* hint */ update t set a = 1")]),
            s(&[&complete("UPDATE 1"), READY]),
        ],
        &["Server SELECT t - None 21/60", "Server UPDATE t - None 35/20"],
    );
    // By a statement that was prepared before: the command tag names the operation.
    expect(
        &[
            c(&[&bind("", "s1"), &message(b'D', b"P\0"), &execute(""), SYNC]),
            s(&[BOUND, NO_DATA, &complete("UPDATE 1"), READY]),
            c(&[&bind("", "s1"), &execute(""), SYNC]),
            s(&[BOUND, &complete("DELETE 1"), READY]),
        ],
        &["Server UPDATE  - None 47/30", "Server DELETE  - None 40/25"],
    );
    // On the client's side.
    let turned: Vec<Step> =
        [c(&[&query("SELECT a FROM t")]), answer].map(|(way, bytes)| (way.reverse(), bytes)).to_vec();
    expect(&turned, &["Client SELECT t - None 21/60"]);
    // By the server's welcome.
    let mut welcomed = login();
    welcomed.drain(..5);
    welcomed.extend([c(&[&query("COMMIT")]), s(&[&complete("COMMIT"), READY])]);
    expect(&welcomed, &["Server COMMIT  - None 12/18"]);
}

/// Results of which the capture shows only the head.
#[test]
fn a_long_result_ends_by_its_tail_or_before_the_next_request() {
    let mut replay = logged_in();
    let head = [columns(), row("7"), row("8")].concat();
    replay.ingress(&query("SELECT a FROM t"));
    replay.part(S, &head, 8192);
    replay.part(S, b"D\0\0\0\x05looks like a start", 8192);
    replay.egress(&[b"rest".as_slice(), &complete("SELECT 900"), READY].concat());
    assert_eq!(replay.lines(), ["Server SELECT t - None 21/16410"]);
    replay.ingress(&query("SELECT b FROM t"));
    replay.part(S, &head, 8192);
    replay.egress(&[b"rest".as_slice(), &error("57014"), READY].concat());
    replay.ingress(&[parse("", "SELECT c FROM t"), bind("", ""), execute(""), SYNC.to_vec()].concat());
    replay.part(S, &[PARSED, BOUND, &head].concat(), 8192);
    replay.part(S, b"", 100);
    let end = replay.now;
    replay.ingress(&query("COMMIT"));
    replay.egress(&[complete("COMMIT").as_slice(), READY].concat());
    replay.close();
    assert_eq!(
        replay.lines()[1..],
        [
            "Server SELECT t 57014 Server 21/8237",
            "Server SELECT t other None 62/8292",
            "Server COMMIT  - None 12/18"
        ]
    );
    assert_eq!(replay.exchanges[2].end.0, end);
    assert_eq!(replay.context.tally().gaps, 3);
}

#[test]
fn a_copy_whose_data_were_not_captured_ends() {
    for waits in [true, false] {
        let mut replay = logged_in();
        replay.ingress(&query("COPY t FROM STDIN"));
        let ready = message(b'G', b"\0\0\x01\0\0");
        if waits {
            replay.egress(&ready);
        }
        for _ in 0..3 {
            replay.part(C, &message(b'd', b"1\tsecret\n"), 8192);
        }
        if !waits {
            replay.egress(&ready);
        }
        replay.egress(&[complete("COPY 900").as_slice(), READY].concat());
        replay.ingress(&query("COMMIT"));
        replay.egress(&[complete("COMMIT").as_slice(), READY].concat());
        replay.close();
        assert_eq!(replay.lines(), ["Server COPY t - None 37/30", "Server COMMIT  - None 12/18"]);
    }
}

#[test]
fn the_unseen_end_of_a_lone_sync_is_no_exchange() {
    let mut replay = logged_in();
    replay.ingress(&[message(b'C', b"Ss1\0").as_slice(), SYNC].concat());
    replay.part(S, b"3\0\0\0\x04", 11);
    replay.ingress(&query("COMMIT"));
    replay.egress(&[complete("COMMIT").as_slice(), READY].concat());
    replay.close();
    assert_eq!(replay.lines(), ["Server COMMIT  - None 12/18"]);
}

#[test]
fn nothing_is_paired_across_a_loss() {
    let mut replay = logged_in();
    let done = [complete("UPDATE 1").as_slice(), READY].concat();
    replay.ingress(&query("SELECT a FROM lost"));
    replay.lose(S, 40);
    replay.ingress(&query("UPDATE a SET b = 1"));
    replay.egress(&done);
    replay.ingress(&query("SELECT b FROM u"));
    replay.lose(C, 40);
    replay.egress(&done);
    replay.ingress(&query("INSERT INTO u VALUES (1)"));
    replay.egress(&done);
    replay.egress(&done);
    // Behind a silence everything was answered.
    replay.now += 1_000_000_000;
    replay.ingress(&query("DELETE FROM u"));
    replay.egress(&done);
    replay.close();
    let lines = replay.lines();
    assert_eq!(lines, ["Server DELETE u - None 19/20"]);
}

#[test]
fn nothing_is_paired_across_a_loss_within_a_truncated_answer() {
    let done = [complete("UPDATE 1").as_slice(), READY].concat();
    let mut replay = logged_in();
    replay.ingress(&query("SELECT a FROM lost"));
    replay.part(S, &[columns(), row("7")].concat(), 8192);
    replay.lose(S, 40);
    replay.egress(b"rest");
    replay.ingress(&query("UPDATE a SET b = 1"));
    replay.egress(&done);
    replay.close();
    assert_eq!(replay.lines(), [""; 0]);

    let mut context = ParserContext::new(Limits::default());
    let mut sink = |_| {};
    let of = (ScopeId(0), ClientId::default(), Side::Server);
    for (gap, is_desynced) in [(GapKind::Truncated, false), (GapKind::Lost, true)] {
        let truncated = ResponseState::Truncated;
        let mut postgres = Postgres { phase: Phase::Commands, response: truncated, ..Postgres::default() };
        postgres.server_gap(gap, &mut ConnectionContext::new(&mut context, of, &mut sink));
        assert_eq!(postgres.resync.is_desynced(), is_desynced, "{gap:?}");
    }
}

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len() / 2)
        .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).expect("hex"))
        .collect()
}

/// Fields that matter or are unknown, as text.
fn decode(table: &mut Table, block: &[u8]) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let whole = table.decode(block, &mut Scratch::default(), |field| {
        if field.name != Name::Other {
            let value = field.value.map_or("?".into(), String::from_utf8_lossy);
            fields.push(format!("{:?}={value}", field.name));
        }
    });
    whole.then_some(fields)
}

/// RFC 7541 appendixes C.3 and C.4: three requests on one connection, without and with Huffman coding.
#[test]
fn the_requests_of_the_rfc() {
    for blocks in [
        [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ],
        [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ],
    ] {
        let mut table = Table::default();
        let fields: Vec<_> =
            blocks.iter().map(|block| decode(&mut table, &hex(block)).expect("whole")).collect();
        assert_eq!(fields[0], ["Method=GET", "Scheme=?", "Path=/", "Authority=?"]);
        assert_eq!(fields[2], ["Method=GET", "Scheme=?", "Path=/index.html", "Authority=?"]);
        assert_eq!(table.size, 164);
        assert_eq!(table.entries.len(), 3);
    }
}

/// RFC 7541 appendixes C.5 and C.6: responses with a table of 256 bytes, from which entries fall.
#[test]
fn the_responses_of_the_rfc() {
    for blocks in [
        [
            "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "4803 3330 37c1 c0bf",
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
        ],
        [
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            "4883 640e ffc1 c0bf",
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
        ],
    ] {
        let mut table = Table { max: 256, ..Table::default() };
        let mut statuses = Vec::new();
        let mut sizes = Vec::new();
        for block in blocks {
            statuses.extend(decode(&mut table, &hex(block)).expect("whole"));
            sizes.push(table.size);
        }
        assert_eq!(statuses, ["Status=302", "Status=307", "Status=200"]);
        assert_eq!(sizes, [222, 222, 215]);
        assert_eq!(table.entries.len(), 3);
        assert!(table.values.is_empty(), "the kept values fell with their entries");
    }
}

#[test]
fn what_was_inserted_before_a_loss_is_unknown_and_what_came_after_is_known() {
    let mut table = Table::default();
    assert_eq!(decode(&mut table, &hex("44032f6f6e")), Some(vec!["Path=/on".into()]));
    table.forget();
    assert_eq!(decode(&mut table, &hex("be")), Some(vec!["Unknown=?".into()]));
    assert_eq!(decode(&mut table, &hex("4404 2f6e6577")), Some(vec!["Path=/new".into()]));
    assert_eq!(decode(&mut table, &hex("be bf")), Some(vec!["Path=/new".into(), "Unknown=?".into()]));
    // A literal whose name is not known.
    assert_eq!(decode(&mut table, &hex("7f00 0161")), Some(vec!["Unknown=?".into()]));
    assert_eq!(decode(&mut table, &hex("bf")), Some(vec!["Path=/new".into()]));
}

#[test]
fn an_index_that_never_existed_is_an_error() {
    let mut table = Table::default();
    assert_eq!(decode(&mut table, &hex("be")), None);
    assert_eq!(decode(&mut Table::default(), &hex("80")), None);
}

#[test]
fn an_entry_larger_than_the_table_empties_it() {
    let mut table = Table { max: 64, ..Table::default() };
    decode(&mut table, &hex("44022f61")).expect("whole");
    assert_eq!(table.entries.len(), 1);
    let mut block = hex("4428");
    block.extend([b'/'; 40]);
    assert!(decode(&mut table, &block).is_some());
    assert_eq!((table.entries.len(), table.size, table.incomplete), (0, 0, false));
}

#[test]
fn a_cut_block_gives_what_came_before_and_forgets_the_table() {
    let whole = hex("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff");
    for cut in 1..whole.len() {
        let mut table = Table::default();
        let mut names = Vec::new();
        let done = table.decode(&whole[..cut], &mut Scratch::default(), |field| names.push(field.name));
        // Between two fields a cut cannot be seen.
        assert_eq!(done, cut <= 3, "cut at {cut}");
        assert_eq!(names, [Name::Method, Name::Scheme, Name::Path][..cut.min(3)]);
    }
}

#[test]
fn numbers_that_do_not_end_are_refused() {
    for block in ["3fffffffff0f", "ffffffffffffffff7f", "7fffffffffff01", "1fffffffffffff01"] {
        assert_eq!(decode(&mut Table::default(), &hex(block)), None, "{block}");
    }
}

#[test]
fn long_values_are_unknown_when_they_are_referred_to() {
    let mut table = Table::default();
    let mut block = hex("447f fa07");
    block.extend([b'/'; 1145]);
    assert_eq!(decode(&mut table, &block), Some(vec!["Path=?".into()]));
    assert_eq!(decode(&mut table, &hex("be")), Some(vec!["Path=?".into()]));
    assert!(table.values.is_empty());
}

#[test]
fn the_table_stays_within_its_bound() {
    let mut table = Table::default();
    decode(&mut table, &hex("3f e1 ff ff 03")).expect("an update to 8 MiB");
    for number in 0..20_000_u32 {
        let mut block = hex("4404");
        block.extend(number.to_be_bytes());
        decode(&mut table, &block).expect("whole");
    }
    assert!(
        table.size <= TABLE_SIZE_MAX && table.values.len() <= 8192,
        "{} {}",
        table.size,
        table.values.len()
    );
    assert_eq!(decode(&mut table, &hex("ffff 7f")), Some(vec!["Unknown=?".into()]));
}

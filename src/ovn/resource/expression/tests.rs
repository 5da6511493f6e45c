use proptest::prelude::*;

use super::*;

struct Sets;

impl Names for Sets {
    fn has_address_set(&self, name: &str) -> bool {
        name == "set1"
    }

    fn has_port_group(&self, name: &str) -> bool {
        name == "pg1"
    }
}

#[test]
fn what_ovn_takes() {
    for text in [
        "1",
        "0",
        "ip4",
        "ip4 && tcp.dst == 80",
        "ip4.src == 10.0.0.0/8 && (tcp.dst == 80 || tcp.dst == 443)",
        "inport == \"vm1\" && ip4.dst != 10.0.0.1",
        "inport == @pg1",
        "ip4.src == $set1",
        "ip4.src == {$set1, 10.0.0.1}",
        "ip4.src == {10.0.0.1 10.0.0.2,}",
        "1024 <= tcp.src <= 49151",
        "80 == tcp.src",
        "tcp.src != 0",
        "eth.dst[40]",
        "eth.dst == ff:ff:ff:ff:ff:ff",
        "eth.src == 00:00:00:00:11:11/00:00:00:00:ff:ff",
        "ip6.dst == fe80::/10",
        "ip6.dst == ::1",
        "vlan.tci[13..15] == 3",
        "vlan.present",
        "!vlan.present",
        "!(arp.op != 1)",
        "!(inport != \"eth0\")",
        "is_chassis_resident(\"cr-lrp\")",
        "!is_chassis_resident(\"cr-lrp\")",
        "ct.est && !ct.rel",
        "ip.proto == {6, 17}",
        "ip4 /* comment */ && udp",
        "eth.type == 0x800",
        "ip4.src == 0/0x1",
        "reg0[0..3] < 7",
        "ip4 == 1",
        "!tcp.src",
        "ip4.dst == ^vip && tcp",
    ] {
        assert_eq!(check(text, &Sets), Ok(()), "{text}");
    }
}

#[test]
fn what_ovn_refuses() {
    for (text, position, says) in [
        ("", 1, "expected a constant, found the end"),
        ("ip4 &&", 7, "expected a constant, found the end"),
        ("ip4 & tcp", 5, "'&' does not belong here"),
        ("ip5", 1, "`ip5` is no field that packets can be matched by"),
        ("ip4 && ip4.source == 1.2.3.4", 8, "`ip4.source` is no field that packets can be matched by"),
        ("ip4 && tcp || udp", 12, "`&&` and `||` need parentheses when they are used together"),
        ("tcp.dst", 1, "tcp.dst has 16 bits and must be compared with something, such as `!= 0`"),
        ("tcp.dst = 80", 9, "expected a comparison such as `==`, found `=`"),
        ("tcp.dst == 65536", 12, "tcp.dst has 16 bits, the constant 17"),
        ("ip4.src == ::1", 12, "ip4.src has 32 bits, the constant 128"),
        ("inport == vm1", 11, "expected a constant, found `vm1`"),
        ("inport == 5", 11, "inport is a text and cannot be a number"),
        ("inport != \"vm1\"", 1, "inport may only be tested for equality, also behind `!`"),
        ("!ip4", 2, "ip4 may only be tested positively, as in `ip4` or `ip4 == 1`, not `!ip4`"),
        ("!tcp.dst == 80", 2, "what `!` negates needs parentheses"),
        ("ip.proto > 5", 1, "only `==` and `!=` work with ip.proto"),
        ("tcp.dst > {80, 443}", 1, "only `==` and `!=` work with sets"),
        ("ip4.src == $nobody", 12, "there is no address set \"nobody\": make it first"),
        ("inport == @nobody", 11, "there is no port group \"nobody\": make it first"),
        ("tcp.dst[16]", 1, "tcp.dst has 16 bits: there is no bit 16"),
        ("ip.proto[0]", 1, "bits of ip.proto cannot be compared one by one"),
        ("(ip4", 5, "expected `)`, found the end"),
        ("ip4)", 4, "expected the end, `&&` or `||`, found `)`"),
        ("ip4.src == 10.0.0.0/33", 12, "the value and its mask have incompatible forms"),
        ("ip4.src == 10.0.0", 12, "10.0.0 is no number and no address"),
        ("tcp.dst == 080", 12, "080 must not have leading zeros"),
        ("inport == \"vm1", 11, "the quoted text has no end"),
        ("tcp.dst == {80, \"a\"}", 17, "texts and numbers cannot stand in one set"),
        (
            "1 < tcp.dst > 3",
            13,
            "a range must have the form `x < field < y` or `x > field > y` (or with `<=`, `>=`)",
        ),
        ("resident(\"x\")", 1, "`resident` is no function: there is only is_chassis_resident(\"port\")"),
        ("2", 2, "expected a comparison such as `==`, found the end"),
        (
            "ip4 // comment",
            5,
            "`//` comments do not work here, because OVN puts more behind the match: use `/* */`",
        ),
        ("ip4 && é", 8, "'é' does not belong here"),
        ("inport == \"é\" && ip5", 18, "`ip5` is no field that packets can be matched by"),
    ] {
        let error = check(text, &Sets).expect_err(text);
        assert_eq!((error.position, error.problem.as_str()), (position, says), "{text}");
    }
}

#[test]
fn nesting_and_length_are_bounded() {
    let nested = |depth: usize| format!("{}ip4{}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(check(&nested(PARENTHESES_MAX), &Sets), Ok(()));
    assert!(check(&nested(PARENTHESES_MAX + 1), &Sets).is_err());
    assert!(check(&"(".repeat(MATCH_BYTES_MAX), &Sets).is_err());
    assert_eq!(check(&" ".repeat(MATCH_BYTES_MAX + 1), &Sets).unwrap_err().code(), "match_too_large");
    let set = format!("tcp.dst == {{{}}}", "80,".repeat(CONSTANTS_MAX + 1));
    assert_eq!(check(&set, &Sets).unwrap_err().code(), "match_too_large");
}

proptest! {
    #[test]
    fn never_panics(text in "\\PC{0,60}") {
        let _ = check(&text, &Sets);
    }

    #[test]
    fn never_panics_on_pieces(pieces in prop::collection::vec(prop::sample::select(vec![
        "ip4", "tcp.dst", "==", "!=", "<", "80", "10.0.0.0/8", "::1", "(", ")", "{", "}", "[", "]", "..", "!", "&&", "||",
        "\"a\"", "$set1", "@pg1", "inport", "ct.est", ",", "/*", "*/", "\\", "\"", "é", "0x", "ff:ff", "1.", "/",
    ]), 0..20)) {
        let text = pieces.join(" ");
        if let Err(error) = check(&text, &Sets) {
            prop_assert!(error.position >= 1 && error.position <= text.chars().count() + 1);
        }
        let _ = check(&pieces.concat(), &Sets);
    }
}

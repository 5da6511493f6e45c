//! Fields of packets, and words that stand for conditions: `lib/logical-fields.c`.

/// What comparisons make sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Equality only, and only positively.
    Nominal,
    /// Yes or no.
    Boolean,
    /// All comparisons, and single bits.
    Ordinal,
}

/// A field or a predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Its name.
    pub name: &'static str,
    /// Bits; 0 for text.
    pub width: u32,
    /// How it may be compared.
    pub level: Level,
    /// Whether it stands for a condition.
    pub is_predicate: bool,
}

const fn ordinal(name: &'static str, width: u32) -> Symbol {
    Symbol { name, width, level: Level::Ordinal, is_predicate: false }
}

const fn nominal(name: &'static str, width: u32) -> Symbol {
    Symbol { name, width, level: Level::Nominal, is_predicate: false }
}

/// A predicate that no nominal field is part of.
const fn boolean(name: &'static str) -> Symbol {
    Symbol { name, width: 1, level: Level::Boolean, is_predicate: true }
}

/// A predicate that a nominal field is part of: cannot be negated.
const fn positive(name: &'static str) -> Symbol {
    Symbol { name, width: 1, level: Level::Nominal, is_predicate: true }
}

static SYMBOLS: &[Symbol] = &[
    nominal("inport", 0),
    nominal("outport", 0),
    ordinal("reg0", 32),
    ordinal("reg1", 32),
    ordinal("reg2", 32),
    ordinal("reg3", 32),
    ordinal("reg4", 32),
    ordinal("reg5", 32),
    ordinal("reg6", 32),
    ordinal("reg7", 32),
    ordinal("reg8", 32),
    ordinal("reg9", 32),
    ordinal("xreg0", 64),
    ordinal("xreg1", 64),
    ordinal("xreg2", 64),
    ordinal("xreg3", 64),
    ordinal("xreg4", 64),
    ordinal("xxreg0", 128),
    ordinal("xxreg1", 128),
    ordinal("flags", 32),
    ordinal("flags.loopback", 1),
    ordinal("flags.force_snat_for_dnat", 1),
    ordinal("flags.force_snat_for_lb", 1),
    ordinal("flags.skip_snat_for_lb", 1),
    ordinal("flags.use_snat_zone", 1),
    ordinal("pkt.mark", 32),
    ordinal("ct_mark", 32),
    ordinal("ct_mark.blocked", 1),
    ordinal("ct_mark.natted", 1),
    ordinal("ct_mark.ecmp_reply_port", 16),
    ordinal("ct_mark.skip_snat", 1),
    ordinal("ct_mark.force_snat", 1),
    ordinal("ct_label", 128),
    ordinal("ct_label.ecmp_reply_eth", 48),
    ordinal("ct_label.label", 32),
    ordinal("ct_state", 32),
    ordinal("ct.new", 1),
    ordinal("ct.est", 1),
    ordinal("ct.rel", 1),
    ordinal("ct.rpl", 1),
    ordinal("ct.inv", 1),
    ordinal("ct.trk", 1),
    ordinal("ct.snat", 1),
    ordinal("ct.dnat", 1),
    ordinal("eth.src", 48),
    ordinal("eth.dst", 48),
    nominal("eth.type", 16),
    boolean("eth.bcast"),
    ordinal("eth.mcast", 1),
    boolean("eth.mcastv6"),
    ordinal("vlan.tci", 16),
    boolean("vlan.present"),
    ordinal("vlan.pcp", 3),
    ordinal("vlan.vid", 12),
    positive("ip4"),
    positive("ip6"),
    positive("ip"),
    nominal("ip.proto", 8),
    nominal("ip.dscp", 6),
    nominal("ip.ecn", 2),
    nominal("ip.ttl", 8),
    ordinal("ip.frag", 2),
    boolean("ip.is_frag"),
    boolean("ip.later_frag"),
    boolean("ip.first_frag"),
    ordinal("ip4.src", 32),
    ordinal("ip4.dst", 32),
    boolean("ip4.src_mcast"),
    boolean("ip4.mcast"),
    positive("icmp4"),
    nominal("icmp4.type", 8),
    nominal("icmp4.code", 8),
    positive("igmp"),
    ordinal("ip6.src", 128),
    ordinal("ip6.dst", 128),
    ordinal("ip6.label", 20),
    boolean("ip6.mcast_rsvd"),
    boolean("ip6.mcast_all_nodes"),
    boolean("ip6.mcast_all_rtrs"),
    boolean("ip6.mcast_sol_node"),
    boolean("ip6.mcast_flood"),
    boolean("ip6.mcast"),
    positive("icmp6"),
    nominal("icmp6.type", 8),
    nominal("icmp6.code", 8),
    positive("icmp"),
    positive("arp"),
    nominal("arp.op", 16),
    ordinal("arp.spa", 32),
    ordinal("arp.sha", 48),
    ordinal("arp.tpa", 32),
    ordinal("arp.tha", 48),
    positive("rarp"),
    nominal("rarp.op", 16),
    ordinal("rarp.spa", 32),
    ordinal("rarp.sha", 48),
    ordinal("rarp.tpa", 32),
    ordinal("rarp.tha", 48),
    positive("nd"),
    positive("nd_ns"),
    positive("nd_na"),
    positive("nd_rs"),
    positive("nd_ra"),
    ordinal("nd.target", 128),
    ordinal("nd.sll", 48),
    ordinal("nd.tll", 48),
    positive("mldv1"),
    positive("mldv2"),
    positive("tcp"),
    ordinal("tcp.src", 16),
    ordinal("tcp.dst", 16),
    ordinal("tcp.flags", 12),
    positive("udp"),
    ordinal("udp.src", 16),
    ordinal("udp.dst", 16),
    positive("sctp"),
    ordinal("sctp.src", 16),
    ordinal("sctp.dst", 16),
];

/// Everything that a match can compare, as of OVN 23.03.
#[must_use]
pub fn symbols() -> &'static [Symbol] {
    SYMBOLS
}

pub(super) fn find(name: &str) -> Option<&'static Symbol> {
    // Short enough to be looked through: a match has a handful of fields.
    SYMBOLS.iter().find(|symbol| symbol.name == name)
}

//! The typed resources, as data. What a column may hold comes from the server's schema; here stands what the schema does not
//! say: how it is called, who holds it, what it needs, who writes it.

use super::rules::Rule;
use super::syntax::Check;

/// A typed resource. Tables and columns that a server's schema lacks are left out at run time.
#[derive(Debug)]
pub struct Spec {
    /// Segment of its path, plural: `ports`.
    pub path: &'static str,
    /// One of them, as part of field names: `port` (`port_id`).
    pub singular: &'static str,
    /// One of them, for people: `logical switch port`.
    pub title: &'static str,
    /// What it is, in a sentence.
    pub about: &'static str,
    /// Its table.
    pub table: &'static str,
    /// Who may hold it. Empty for rows that live on their own.
    pub parents: &'static [ParentSpec],
    /// Columns that a new one needs, beyond those that the schema itself demands.
    pub required: &'static [&'static str],
    /// Whether the name is kept unique although the schema does not say so.
    pub unique_name: bool,
    /// Columns that OVN writes.
    pub read_only: &'static [&'static str],
    /// Checks of single columns.
    pub checks: &'static [(&'static str, Check)],
    /// Checks of several columns together.
    pub rules: &'static [Rule],
    /// Columns whose members have a path of their own: segment and column.
    pub members: &'static [(&'static str, &'static str)],
}

/// A column of another table that holds rows of this one.
#[derive(Debug)]
pub struct ParentSpec {
    /// Path of the parent's resource.
    pub path: &'static str,
    /// The parent's column.
    pub column: &'static str,
    /// Segment under the parent: `/switches/{id}/<segment>`.
    pub segment: &'static str,
}

const NOTHING: Spec = Spec {
    path: "",
    singular: "",
    title: "",
    about: "",
    table: "",
    parents: &[],
    required: &[],
    unique_name: false,
    read_only: &[],
    checks: &[],
    rules: &[],
    members: &[],
};

const fn held_by(path: &'static str, column: &'static str, segment: &'static str) -> ParentSpec {
    ParentSpec { path, column, segment }
}

/// Every typed resource.
pub static SPECS: &[Spec] = &[
    Spec {
        path: "switches",
        singular: "switch",
        title: "logical switch",
        about: "A logical layer 2 network.",
        table: "Logical_Switch",
        required: &["name"],
        unique_name: true,
        checks: &[("name", Check::Name)],
        members: &[
            ("load-balancers", "load_balancer"),
            ("load-balancer-groups", "load_balancer_group"),
            ("dns", "dns_records"),
        ],
        ..NOTHING
    },
    Spec {
        path: "ports",
        singular: "port",
        title: "logical switch port",
        about: "Where a machine, a router or a physical network meets a logical switch.",
        table: "Logical_Switch_Port",
        parents: &[held_by("switches", "ports", "ports")],
        required: &["name"],
        read_only: &["up", "dynamic_addresses"],
        checks: &[
            ("name", Check::Name),
            ("type", Check::PortType),
            ("addresses", Check::PortAddress),
            ("port_security", Check::PortSecurity),
        ],
        rules: &[Rule::RouterPortNamed, Rule::TagNeedsParent],
        members: &[("mirrors", "mirror_rules")],
        ..NOTHING
    },
    Spec {
        path: "forwarding-groups",
        singular: "forwarding_group",
        title: "forwarding group",
        about: "Ports of a switch that share one virtual address.",
        table: "Forwarding_Group",
        parents: &[held_by("switches", "forwarding_groups", "forwarding-groups")],
        required: &["name", "vip", "vmac", "child_port"],
        checks: &[("name", Check::Name), ("vip", Check::Ip), ("vmac", Check::Mac)],
        ..NOTHING
    },
    Spec {
        path: "routers",
        singular: "router",
        title: "logical router",
        about: "A logical layer 3 router.",
        table: "Logical_Router",
        required: &["name"],
        unique_name: true,
        checks: &[("name", Check::Name)],
        members: &[("load-balancers", "load_balancer"), ("load-balancer-groups", "load_balancer_group")],
        ..NOTHING
    },
    Spec {
        path: "router-ports",
        singular: "router_port",
        title: "logical router port",
        about: "An interface of a logical router.",
        table: "Logical_Router_Port",
        parents: &[held_by("routers", "ports", "ports")],
        required: &["name", "mac", "networks"],
        read_only: &["ipv6_prefix", "status"],
        checks: &[("name", Check::Name), ("mac", Check::Mac), ("networks", Check::Network)],
        rules: &[Rule::NetworksApart, Rule::PeerIsAnother],
        ..NOTHING
    },
    Spec {
        path: "static-routes",
        singular: "static_route",
        title: "static route",
        about: "A route of a logical router.",
        table: "Logical_Router_Static_Route",
        parents: &[held_by("routers", "static_routes", "static-routes")],
        required: &["ip_prefix", "nexthop"],
        checks: &[("ip_prefix", Check::RoutePrefix), ("nexthop", Check::RouteNexthop)],
        rules: &[Rule::RouteFamilies],
        ..NOTHING
    },
    Spec {
        path: "policies",
        singular: "policy",
        title: "routing policy",
        about: "A policy route of a logical router.",
        table: "Logical_Router_Policy",
        parents: &[held_by("routers", "policies", "policies")],
        required: &["priority", "match", "action"],
        checks: &[("match", Check::Match), ("nexthop", Check::Ip), ("nexthops", Check::Ip)],
        rules: &[Rule::PolicyNexthops],
        ..NOTHING
    },
    Spec {
        path: "nat",
        singular: "nat",
        title: "NAT rule",
        about: "An address translation of a logical router.",
        table: "NAT",
        parents: &[held_by("routers", "nat", "nat")],
        required: &["type", "external_ip", "logical_ip"],
        checks: &[
            ("external_ip", Check::NatExternalIp),
            ("logical_ip", Check::IpOrNetwork),
            ("external_mac", Check::Mac),
            ("external_port_range", Check::PortRange),
            ("match", Check::OptionalMatch),
        ],
        rules: &[Rule::NatAddresses, Rule::NatDistributed, Rule::NatExternalSets],
        ..NOTHING
    },
    Spec {
        path: "acls",
        singular: "acl",
        title: "ACL",
        about: "A rule that lets packets pass or not, on a switch or a port group.",
        table: "ACL",
        parents: &[held_by("switches", "acls", "acls"), held_by("port-groups", "acls", "acls")],
        required: &["direction", "priority", "match", "action"],
        checks: &[("match", Check::Match)],
        rules: &[Rule::AclLabel, Rule::AclMeterLogs],
        ..NOTHING
    },
    Spec {
        path: "port-groups",
        singular: "port_group",
        title: "port group",
        about: "Ports under one name, for `@name` in matches, with ACLs of their own.",
        table: "Port_Group",
        required: &["name"],
        checks: &[("name", Check::SetName)],
        members: &[("ports", "ports")],
        ..NOTHING
    },
    Spec {
        path: "address-sets",
        singular: "address_set",
        title: "address set",
        about: "Addresses under one name, for `$name` in matches.",
        table: "Address_Set",
        required: &["name"],
        checks: &[("name", Check::SetName), ("addresses", Check::SetAddress)],
        members: &[("addresses", "addresses")],
        ..NOTHING
    },
    Spec {
        path: "load-balancers",
        singular: "load_balancer",
        title: "load balancer",
        about: "Virtual addresses and the backends behind them.",
        table: "Load_Balancer",
        required: &["name"],
        unique_name: true,
        checks: &[("name", Check::Name), ("vips", Check::Vips), ("ip_port_mappings", Check::IpPortMappings)],
        rules: &[Rule::VipsNeedPorts],
        ..NOTHING
    },
    Spec {
        path: "load-balancer-groups",
        singular: "load_balancer_group",
        title: "load balancer group",
        about: "Load balancers that are given to switches and routers together.",
        table: "Load_Balancer_Group",
        required: &["name"],
        checks: &[("name", Check::Name)],
        members: &[("load-balancers", "load_balancer")],
        ..NOTHING
    },
    Spec {
        path: "load-balancer-health-checks",
        singular: "load_balancer_health_check",
        title: "load balancer health check",
        about: "Watches the backends of one virtual address.",
        table: "Load_Balancer_Health_Check",
        parents: &[held_by("load-balancers", "health_check", "health-checks")],
        required: &["vip"],
        checks: &[("vip", Check::Vip)],
        ..NOTHING
    },
    Spec {
        path: "dhcp-options",
        singular: "dhcp_options",
        title: "DHCP options",
        about: "What OVN's DHCP server answers to the ports that refer to it.",
        table: "DHCP_Options",
        required: &["cidr"],
        checks: &[("cidr", Check::Network)],
        rules: &[Rule::DhcpAnswers],
        ..NOTHING
    },
    Spec {
        path: "dhcp-relays",
        singular: "dhcp_relay",
        title: "DHCP relay",
        about: "Where a router port sends DHCP requests on.",
        table: "DHCP_Relay",
        required: &["name", "servers"],
        checks: &[("name", Check::Name), ("servers", Check::Ip)],
        ..NOTHING
    },
    Spec {
        path: "dns",
        singular: "dns",
        title: "DNS records",
        about: "Names that OVN's DNS answers for the switches that refer to it.",
        table: "DNS",
        checks: &[("records", Check::DnsRecords)],
        ..NOTHING
    },
    Spec {
        path: "qos",
        singular: "qos",
        title: "QoS rule",
        about: "Marks or limits packets on a switch.",
        table: "QoS",
        parents: &[held_by("switches", "qos_rules", "qos")],
        required: &["priority", "direction", "match"],
        checks: &[("match", Check::Match)],
        rules: &[Rule::QosActs],
        ..NOTHING
    },
    Spec {
        path: "meters",
        singular: "meter",
        title: "meter",
        about: "A rate that ACL logs or control packets may not exceed.",
        table: "Meter",
        required: &["name", "unit", "bands"],
        checks: &[("name", Check::MeterName)],
        ..NOTHING
    },
    Spec {
        path: "meter-bands",
        singular: "meter_band",
        title: "meter band",
        about: "What happens above one rate of a meter.",
        table: "Meter_Band",
        parents: &[held_by("meters", "bands", "bands")],
        required: &["action", "rate"],
        ..NOTHING
    },
    Spec {
        path: "ha-chassis-groups",
        singular: "ha_chassis_group",
        title: "HA chassis group",
        about: "Chassis that take over from one another, in order of priority.",
        table: "HA_Chassis_Group",
        required: &["name"],
        checks: &[("name", Check::Name)],
        ..NOTHING
    },
    Spec {
        path: "ha-chassis",
        singular: "ha_chassis",
        title: "HA chassis",
        about: "A chassis of an HA chassis group.",
        table: "HA_Chassis",
        parents: &[held_by("ha-chassis-groups", "ha_chassis", "ha-chassis")],
        required: &["chassis_name", "priority"],
        checks: &[("chassis_name", Check::Name)],
        ..NOTHING
    },
    Spec {
        path: "gateway-chassis",
        singular: "gateway_chassis",
        title: "gateway chassis",
        about: "A chassis that may serve a distributed gateway port.",
        table: "Gateway_Chassis",
        parents: &[held_by("router-ports", "gateway_chassis", "gateway-chassis")],
        required: &["name", "chassis_name", "priority"],
        checks: &[("name", Check::Name), ("chassis_name", Check::Name)],
        ..NOTHING
    },
    Spec {
        path: "bfd",
        singular: "bfd",
        title: "BFD session",
        about: "Watches a next hop of a router port.",
        table: "BFD",
        required: &["logical_port", "dst_ip"],
        read_only: &["status"],
        checks: &[("logical_port", Check::Name), ("dst_ip", Check::Ip)],
        ..NOTHING
    },
    Spec {
        path: "copp",
        singular: "copp",
        title: "control plane protection",
        about: "Meters for the packets that reach the controllers.",
        table: "Copp",
        required: &["name"],
        checks: &[("name", Check::Name)],
        ..NOTHING
    },
    Spec {
        path: "mirrors",
        singular: "mirror",
        title: "mirror",
        about: "Sends copies of a port's packets elsewhere.",
        table: "Mirror",
        required: &["name", "filter", "sink", "type"],
        checks: &[("name", Check::Name), ("sink", Check::Name)],
        rules: &[Rule::MirrorSink],
        ..NOTHING
    },
    Spec {
        path: "static-mac-bindings",
        singular: "static_mac_binding",
        title: "static MAC binding",
        about: "The MAC address behind an IP address, for a router port.",
        table: "Static_MAC_Binding",
        required: &["logical_port", "ip", "mac"],
        checks: &[("logical_port", Check::Name), ("ip", Check::Ip), ("mac", Check::Mac)],
        ..NOTHING
    },
    Spec {
        path: "chassis-template-vars",
        singular: "chassis_template_var",
        title: "chassis template variables",
        about: "Values of `^name` in load balancers, per chassis.",
        table: "Chassis_Template_Var",
        required: &["chassis"],
        checks: &[("chassis", Check::Name)],
        ..NOTHING
    },
    Spec {
        path: "nb-global",
        singular: "nb_global",
        title: "northbound settings",
        about: "Settings of the whole network. Exactly one row.",
        table: "NB_Global",
        read_only: &[
            "nb_cfg",
            "nb_cfg_timestamp",
            "sb_cfg",
            "sb_cfg_timestamp",
            "hv_cfg",
            "hv_cfg_timestamp",
        ],
        ..NOTHING
    },
];

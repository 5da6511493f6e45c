//! Bodies that every server takes.

use serde_json::{Value as Json, json};

/// One of every resource, and a change of it, in an order in which each finds what it needs.
pub(crate) fn samples() -> Vec<(&'static str, Json, Json)> {
    let keys = json!({"external_ids": {"owner": "me"}});
    vec![
        ("switches", json!({"name": "blue", "other_config": {"subnet": "10.0.0.0/24"}}), keys.clone()),
        ("routers", json!({"name": "edge", "enabled": true}), json!({"options": {"chassis": "c1"}})),
        (
            "dhcp-options",
            json!({"cidr": "10.0.0.0/24", "options": {"server_id": "10.0.0.1",
            "server_mac": "0a:00:00:00:00:fe", "lease_time": "3600"}}),
            json!({"options": {"mtu": "1400"}}),
        ),
        (
            "ha-chassis-groups",
            json!({"name": "ha", "ha_chassis": [{"chassis_name": "c0", "priority": 9}]}),
            keys.clone(),
        ),
        (
            "ha-chassis",
            json!({"ha_chassis_group_id": "ha", "chassis_name": "c1", "priority": 10}),
            json!({"priority": 11}),
        ),
        (
            "mirrors",
            json!({"name": "tap", "filter": "to-lport", "type": "gre", "sink": "10.9.9.9", "index": 1}),
            json!({"sink": "10.9.9.8"}),
        ),
        (
            "ports",
            json!({"switch_id": "blue", "name": "vm1", "addresses": ["0a:00:00:00:00:01 10.0.0.4"],
            "port_security": ["0a:00:00:00:00:01 10.0.0.4"], "mirror_rules": ["tap"], "tag_request": 7,
            "parent_name": "vm0"}),
            json!({"enabled": false, "addresses": ["unknown"]}),
        ),
        (
            "forwarding-groups",
            json!({"switch_id": "blue", "name": "fg", "vip": "10.0.0.9", "vmac": "0a:00:00:00:00:09",
            "child_port": ["vm1"]}),
            json!({"liveness": true}),
        ),
        (
            "router-ports",
            json!({"router_id": "edge", "name": "edge-blue", "mac": "0a:00:00:00:01:01",
            "networks": ["10.0.0.1/24", "fd00::1/64"], "ipv6_ra_configs": {"address_mode": "slaac"}}),
            json!({"networks": ["10.0.0.1/24"]}),
        ),
        (
            "gateway-chassis",
            json!({"router_port_id": "edge-blue", "name": "edge-blue-c1", "chassis_name": "c1",
            "priority": 20}),
            json!({"priority": 21}),
        ),
        (
            "bfd",
            json!({"logical_port": "edge-blue", "dst_ip": "10.0.0.254", "min_tx": 100}),
            json!({"min_rx": 200}),
        ),
        (
            "static-routes",
            json!({"router_id": "edge", "ip_prefix": "0.0.0.0/0", "nexthop": "10.0.0.254"}),
            json!({"policy": "src-ip"}),
        ),
        (
            "policies",
            json!({"router_id": "edge", "priority": 5, "match": "ip4.src == 10.0.0.0/24",
            "action": "reroute", "nexthops": ["10.0.0.2", "10.0.0.3"]}),
            json!({"action": "drop", "nexthops": []}),
        ),
        ("address-sets", json!({"name": "hosts", "addresses": ["10.0.0.4", "10.0.0.5"]}), keys.clone()),
        (
            "nat",
            json!({"router_id": "edge", "type": "snat", "external_ip": "172.16.0.1", "logical_ip": "10.0.0.0/24",
            "allowed_ext_ips": "hosts"}),
            json!({"allowed_ext_ips": null}),
        ),
        ("port-groups", json!({"name": "web", "ports": ["vm1"]}), keys.clone()),
        (
            "acls",
            json!({"port_group_id": "web", "direction": "to-lport", "priority": 1000, "action": "allow-related",
            "match": "outport == @web && ip4.src == $hosts && tcp.dst == {80, 443}", "name": "http"}),
            json!({"priority": 1001}),
        ),
        (
            "load-balancers",
            json!({"name": "lb", "protocol": "tcp", "vips": {"10.0.0.9:80": "10.0.0.4:8080,10.0.0.5:8080"},
            "health_check": [{"vip": "10.0.0.9:80"}]}),
            json!({"vips": {"10.0.0.9:81": "10.0.0.4:8081"}}),
        ),
        (
            "load-balancer-health-checks",
            json!({"load_balancer_id": "lb", "vip": "10.0.0.9:81"}),
            json!({"options": {"interval": "5"}}),
        ),
        (
            "load-balancer-groups",
            json!({"name": "lbs", "load_balancer": ["lb"]}),
            json!({"load_balancer": []}),
        ),
        ("dns", json!({"records": {"vm1.lab": "10.0.0.4"}}), json!({"records": {"vm2.lab": "10.0.0.5"}})),
        (
            "qos",
            json!({"switch_id": "blue", "priority": 7, "direction": "from-lport", "match": "ip4", "action": {"dscp": 10}}),
            json!({"bandwidth": {"rate": 1000}}),
        ),
        (
            "meters",
            json!({"name": "m", "unit": "kbps", "bands": [{"action": "drop", "rate": 100}]}),
            json!({"fair": true}),
        ),
        ("meter-bands", json!({"meter_id": "m", "action": "drop", "rate": 200}), json!({"burst_size": 5})),
        ("copp", json!({"name": "copp", "meters": {"arp": "m"}}), json!({"meters": {"arp": null}})),
        (
            "static-mac-bindings",
            json!({"logical_port": "edge-blue", "ip": "10.0.0.77", "mac": "0a:00:00:00:00:77"}),
            json!({"override_dynamic_mac": true}),
        ),
        (
            "chassis-template-vars",
            json!({"chassis": "c1", "variables": {"vip": "10.0.0.1"}}),
            json!({"variables": {"vip": "10.0.0.2"}}),
        ),
    ]
}

//! The few messages of nftables that a cut needs, as netlink carries them (linux/netfilter/nf_tables.h).
//!
//! A table that is made with the flag `owner` (Linux 5.12) belongs to the socket that made it.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with},
};

use crate::{fault::Cut, scenario::types::Direction};

/// The most rules that one cut may take.
const MOST: usize = 1_000;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;
const APPEND: u16 = 0x800;

const ERROR: u16 = 2;
const DONE: u16 = 3;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// nftables' number among netfilter's parts, and its messages.
const PART: u16 = 10;
const NEW_TABLE: u16 = PART << 8;
const GET_TABLE: u16 = PART << 8 | 1;
const DELETE_TABLE: u16 = PART << 8 | 2;
const NEW_CHAIN: u16 = PART << 8 | 3;
const NEW_RULE: u16 = PART << 8 | 6;
const GET_RULE: u16 = PART << 8 | 7;

/// Both versions of IP.
const INET: u8 = 1;
const NESTED: u16 = 0x8000;

/// Packets that come in, and that go out; both before connections are tracked.
const HOOKS: [(&str, u32, Direction); 2] = [("ingress", 1, Direction::Ingress), ("egress", 3, Direction::Egress)];
const PRIORITY: i32 = -400;

/// What is being written.
#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn bytes(&mut self, kind: u16, data: &[u8]) {
        let length = u16::try_from(4 + data.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(data);
        self.pad();
    }

    fn number(&mut self, kind: u16, number: u32) {
        self.bytes(kind, &number.to_be_bytes());
    }

    fn text(&mut self, kind: u16, text: &str) {
        self.bytes(kind, &[text.as_bytes(), &[0]].concat());
    }

    fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) {
        let at = self.0.len();
        self.bytes(kind | NESTED, &[]);
        inside(self);
        let length = u16::try_from(self.0.len() - at).unwrap_or(u16::MAX);
        self.0[at..at + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn message(&mut self, kind: u16, flags: u16, number: u32, part: u16, inside: impl FnOnce(&mut Self)) {
        let at = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        self.0.extend_from_slice(&number.to_ne_bytes());
        self.0.extend_from_slice(&[0; 4]);
        self.0.extend_from_slice(&[if part == 0 { INET } else { 0 }, 0]);
        self.0.extend_from_slice(&part.to_be_bytes());
        inside(self);
        let length = u32::try_from(self.0.len() - at).unwrap_or(u32::MAX);
        self.0[at..at + 4].copy_from_slice(&length.to_ne_bytes());
        self.pad();
    }

    /// A part of a rule.
    fn part(&mut self, name: &str, inside: impl FnOnce(&mut Self)) {
        self.nest(1, |out| {
            out.text(1, name);
            out.nest(2, inside);
        });
    }

    /// Loads a fact about the packet and compares it.
    fn meta(&mut self, what: u32, with: &[u8]) {
        self.part("meta", |out| {
            out.number(1, 1);
            out.number(2, what);
        });
        self.compare(with);
    }

    fn compare(&mut self, with: &[u8]) {
        self.part("cmp", |out| {
            out.number(1, 1);
            out.number(2, 0);
            out.nest(3, |out| out.bytes(1, with));
        });
    }

    /// Loads bytes of the packet: of the network's (1) or the transport's (2) header.
    fn load(&mut self, header: u32, offset: u32, length: u32) {
        self.part("payload", |out| {
            out.number(1, 1);
            out.number(2, header);
            out.number(3, offset);
            out.number(4, length);
        });
    }

    fn verdict(&mut self, code: u32) {
        self.part("immediate", |out| {
            out.number(1, 0);
            out.nest(2, |out| out.nest(2, |out| out.number(1, code)));
        });
    }

    /// Lets through what is said to oneself.
    fn own(&mut self, incoming: bool) {
        let mut own = [0; 16];
        own[..2].copy_from_slice(b"lo");
        self.meta(if incoming { 6 } else { 7 }, &own);
        self.verdict(1);
    }

    fn rule(&mut self, number: u32, table: &str, chain: &str, inside: impl FnOnce(&mut Self)) {
        self.message(NEW_RULE, ACK | CREATE | APPEND, number, 0, |out| {
            out.text(1, table);
            out.text(2, chain);
            out.nest(4, inside);
        });
    }
}

/// A network as packets carry addresses, with how many of their bits count.
///
/// # Errors
/// It is none.
pub(crate) fn network(text: &str) -> Result<(IpAddr, u8), String> {
    let wrong = || format!("`{text}` is not a network: write for example `10.0.0.0/8`");
    let (address, bits) = text.split_once('/').ok_or_else(wrong)?;
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let bits: u8 = bits.parse().map_err(|_| wrong())?;
    if bits > if address.is_ipv4() { 32 } else { 128 } {
        return Err(wrong());
    }
    Ok((address, bits))
}

/// The packets of one rule: of which peer, and to which port by which protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packets {
    direction: Direction,
    network: Option<(IpAddr, u8)>,
    port: Option<(u8, u16)>,
}

/// What cuts mean, a rule each.
fn packets(cuts: &[Cut]) -> Result<Vec<Packets>, String> {
    let mut all = Vec::new();
    for cut in cuts {
        let network = cut.network.as_deref().map(network).transpose()?;
        for direction in [Direction::Ingress, Direction::Egress] {
            if cut.direction.is_some_and(|only| only != direction) {
                continue;
            }
            // TCP, UDP.
            let ports = cut.ports.iter().flat_map(|port| [(6, *port), (17, *port)]);
            let ports: Vec<Option<(u8, u16)>> = if cut.ports.is_empty() { vec![None] } else { ports.map(Some).collect() };
            all.extend(ports.into_iter().map(|port| Packets { direction, network, port }));
        }
    }
    if all.is_empty() || all.len() > MOST {
        return Err(format!("{} rules are needed; it must be between 1 and {MOST}", all.len()));
    }
    Ok(all)
}

fn matches(out: &mut Out, packets: Packets) {
    if let Some((address, bits)) = packets.network {
        // The peer is the source of what comes in and the destination of what goes out.
        let incoming = packets.direction == Direction::Ingress;
        let (version, offset, bytes) = match address {
            IpAddr::V4(a) => (2, if incoming { 12 } else { 16 }, a.octets().to_vec()),
            IpAddr::V6(a) => (10, if incoming { 8 } else { 24 }, a.octets().to_vec()),
        };
        out.meta(15, &[version]);
        let length = u32::try_from(bytes.len()).unwrap_or(16);
        out.load(1, offset, length);
        let mask: Vec<u8> = (0..bytes.len())
            .map(|n| {
                let left = usize::from(bits).saturating_sub(n * 8).min(8);
                u8::try_from(0xff00_u32 >> left & 0xff).unwrap_or(0)
            })
            .collect();
        out.part("bitwise", |out| {
            out.number(1, 1);
            out.number(2, 1);
            out.number(3, length);
            out.nest(4, |out| out.bytes(1, &mask));
            out.nest(5, |out| out.bytes(1, &vec![0; bytes.len()]));
        });
        let wanted: Vec<u8> = bytes.iter().zip(&mask).map(|(byte, mask)| byte & mask).collect();
        out.compare(&wanted);
    }
    if let Some((protocol, port)) = packets.port {
        out.meta(16, &[protocol]);
        out.load(2, 2, 2);
        out.compare(&port.to_be_bytes());
    }
    out.part("counter", |_| {});
    out.verdict(0);
}

/// A socket to the nftables of the network namespace that the calling thread is in.
pub(in crate::agent) fn socket() -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, Some(netlink::NETFILTER))
}

/// Makes a table of this socket's own with these rules, all at once or not at all. Gives how many rules it has.
pub(super) fn make(socket: &OwnedFd, table: &str, cuts: &[Cut]) -> Result<usize, String> {
    let all = packets(cuts)?;
    let mut made = Table::new(table);
    for (chain, hook, direction) in HOOKS {
        made.chain(chain, hook, PRIORITY);
        // What a pod says to itself is never cut.
        made.rule(chain, |out| out.own(hook == 1));
        for packets in all.iter().filter(|p| p.direction == direction) {
            made.rule(chain, |out| matches(out, *packets));
        }
    }
    made.make(socket)
}

/// A table of a socket's own, with chains and rules, that is made all at once or not at all.
struct Table<'a> {
    name: &'a str,
    out: Out,
    number: u32,
    rules: usize,
}

impl<'a> Table<'a> {
    fn new(name: &'a str) -> Self {
        let mut out = Out::default();
        out.message(BATCH_BEGIN, 0, 0, PART, |_| {});
        out.message(NEW_TABLE, ACK | CREATE | EXCLUSIVE, 1, 0, |out| {
            out.text(1, name);
            out.number(2, 2);
        });
        Self { name, out, number: 1, rules: 0 }
    }

    fn chain(&mut self, chain: &str, hook: u32, priority: i32) {
        self.number += 1;
        self.out.message(NEW_CHAIN, ACK | CREATE | EXCLUSIVE, self.number, 0, |out| {
            out.text(1, self.name);
            out.text(3, chain);
            out.nest(4, |out| {
                out.number(1, hook);
                out.bytes(2, &priority.to_be_bytes());
            });
            out.number(5, 1);
            out.text(7, "filter");
        });
    }

    fn rule(&mut self, chain: &str, inside: impl FnOnce(&mut Out)) {
        self.number += 1;
        self.rules += 1;
        self.out.rule(self.number, self.name, chain, inside);
    }

    /// Has the kernel make it. Gives how many rules it has.
    fn make(mut self, socket: &OwnedFd) -> Result<usize, String> {
        self.out.message(BATCH_END, 0, self.number + 1, PART, |_| {});
        ask(socket, &self.out.0, usize::try_from(self.number).unwrap_or(0)).map_err(|e| match e {
            Errno::OPNOTSUPP | Errno::INVAL => format!("the kernel refuses the rules ({e}): it needs nftables, and Linux 5.12 or newer"),
            e => format!("the kernel refuses the rules: {e}"),
        })?;
        Ok(self.rules)
    }
}

/// What a node's own network is cut by: what comes in, what is passed on and what goes out. What comes in is looked at only once the
/// addresses of Services are put back (100, `NF_IP_PRI_NAT_SRC`), what goes out before they are replaced, so that both are what a process sees.
const NODE_HOOKS: [(&str, u32, i32); 3] = [("input", 1, 300), ("forward", 2, PRIORITY), ("output", 3, PRIORITY)];

/// Makes a table of this socket's own that drops everything but TCP with these peers, neighbour discovery, and what the node says to itself.
/// Gives how many rules it has.
pub(in crate::agent) fn isolate(socket: &OwnedFd, table: &str, keep: &[SocketAddr]) -> Result<usize, String> {
    if keep.is_empty() {
        return Err("no address of the API server is known: nothing was cut".to_owned());
    }
    let mut made = Table::new(table);
    for (chain, hook, priority) in NODE_HOOKS {
        made.chain(chain, hook, priority);
        if hook != 2 {
            let incoming = hook == 1;
            made.rule(chain, |out| out.own(incoming));
            // Without these no IPv6 neighbour is found: solicitation and advertisement, of neighbours and of routers.
            for kind in 133..=136_u8 {
                made.rule(chain, |out| {
                    out.meta(16, &[58]);
                    out.load(2, 0, 1);
                    out.compare(&[kind]);
                    out.verdict(1);
                });
            }
            for peer in keep {
                made.rule(chain, |out| {
                    let (version, offset, bytes) = match peer.ip() {
                        IpAddr::V4(a) => (2, if incoming { 12 } else { 16 }, a.octets().to_vec()),
                        IpAddr::V6(a) => (10, if incoming { 8 } else { 24 }, a.octets().to_vec()),
                    };
                    out.meta(15, &[version]);
                    out.load(1, offset, u32::try_from(bytes.len()).unwrap_or(16));
                    out.compare(&bytes);
                    out.meta(16, &[6]);
                    out.load(2, if incoming { 0 } else { 2 }, 2);
                    out.compare(&peer.port().to_be_bytes());
                    out.verdict(1);
                });
            }
        }
        made.rule(chain, |out| {
            out.part("counter", |_| {});
            out.verdict(0);
        });
    }
    made.make(socket)
}

/// Removes the table. False: there is none.
pub(in crate::agent) fn remove(socket: &OwnedFd, table: &str) -> Result<bool, String> {
    let mut out = Out::default();
    out.message(BATCH_BEGIN, 0, 0, PART, |_| {});
    out.message(DELETE_TABLE, ACK, 1, 0, |out| out.text(1, table));
    out.message(BATCH_END, 0, 2, PART, |_| {});
    match ask(socket, &out.0, 1) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(format!("failed to remove the rules: {e}")),
    }
}

/// Whether there is such a table, whoever owns it.
pub(in crate::agent) fn exists(socket: &OwnedFd, table: &str) -> Result<bool, String> {
    let mut out = Out::default();
    out.message(GET_TABLE, ACK, 1, 0, |out| out.text(1, table));
    match ask(socket, &out.0, 1) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(format!("failed to look for rules: {e}")),
    }
}

/// How many rules a table has, and how many packets they have dropped.
pub(in crate::agent) fn count(socket: &OwnedFd, table: &str) -> Result<(usize, u64), String> {
    let mut out = Out::default();
    out.message(GET_RULE, DUMP, 1, 0, |out| out.text(1, table));
    let answers = ask(socket, &out.0, 0).map_err(|e| format!("failed to look at the rules: {e}"))?;
    // Older kernels list all tables' rules.
    let ours: Vec<&Vec<u8>> = answers
        .iter()
        .filter(|body| attribute(body.get(4..).unwrap_or_default(), &[1]) == Some(&[table.as_bytes(), &[0]].concat()))
        .collect();
    Ok((ours.len(), ours.iter().filter_map(|body| dropped(body.get(4..)?)).sum()))
}

/// The packets that a rule's counter has counted.
fn dropped(rule: &[u8]) -> Option<u64> {
    let parts = attribute(rule, &[4])?;
    attributes(parts).filter(|(kind, _)| *kind == 1).find_map(|(_, part)| {
        (attribute(part, &[1])? == b"counter\0").then_some(())?;
        Some(u64::from_be_bytes(attribute(part, &[2, 2])?.try_into().ok()?))
    })
}

/// The attributes that lie one behind the other.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff;
        let data = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, data))
    })
}

/// The attribute at the end of a way through nested ones.
fn attribute<'a>(bytes: &'a [u8], way: &[u16]) -> Option<&'a [u8]> {
    way.iter().try_fold(bytes, |bytes, wanted| attributes(bytes).find(|(kind, _)| kind == wanted).map(|(_, data)| data))
}

/// Sends messages and reads their answers, until so many are acknowledged, or a listing has ended. The kernel has answered when the
/// sending returns, so that nothing is waited for.
fn ask(socket: &OwnedFd, messages: &[u8], acknowledged: usize) -> Result<Vec<Vec<u8>>, Errno> {
    send(socket.as_fd(), messages, SendFlags::empty())?;
    let (mut bodies, mut left, mut failed) = (Vec::new(), acknowledged, None);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = match recv(socket.as_fd(), buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
            Ok((length, _)) => length,
            Err(Errno::INTR) => continue,
            // Nothing more has come.
            Err(Errno::AGAIN) => return failed.map_or(if left == 0 && acknowledged > 0 { Ok(bodies) } else { Err(Errno::PROTO) }, Err),
            Err(e) => return Err(e),
        };
        let mut rest = &buffer[..length];
        while let Some(head) = rest.get(..16) {
            let size = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
            let kind = u16::from_ne_bytes([head[4], head[5]]);
            let Some(body) = rest.get(16..size) else { return Err(Errno::PROTO) };
            match kind {
                ERROR => match body.get(..4).map(|b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]])) {
                    Some(0) => left = left.saturating_sub(1),
                    // The first is the reason; others follow from it.
                    Some(code) => failed = failed.or(Some(Errno::from_raw_os_error(-code))),
                    None => return Err(Errno::PROTO),
                },
                DONE => return failed.map_or(Ok(bodies), Err),
                _ => bodies.push(body.to_vec()),
            }
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_become_rules() {
        let cut =
            |network: Option<&str>, ports: &[u16], direction| Cut { direction, network: network.map(str::to_owned), ports: ports.to_vec() };
        assert_eq!(packets(&[cut(None, &[], None)]).unwrap().len(), 2);
        assert_eq!(packets(&[cut(Some("10.0.0.0/8"), &[80, 443], Some(Direction::Egress))]).unwrap().len(), 4);
        assert!(packets(&[]).is_err() && packets(&[cut(Some("10.0.0.0/33"), &[], None)]).is_err());
        assert!(packets(&vec![cut(None, &[], None); 501]).unwrap_err().contains("1002 rules"));
    }

    #[test]
    fn attributes_are_padded_and_nested() {
        let mut out = Out::default();
        out.nest(4, |out| {
            out.text(1, "abc");
            out.number(2, 7);
        });
        assert_eq!(out.0.len(), 20);
        assert_eq!(attribute(&out.0, &[4, 2]), Some([0, 0, 0, 7].as_slice()));
        assert_eq!(attribute(&out.0, &[4, 3]), None);
        assert_eq!(attribute(&[9, 0, 1], &[1]), None);
    }
}

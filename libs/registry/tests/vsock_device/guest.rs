//! A guest without a machine: its memory is a file, the driver of its vsock device a thread.
//!
//! vhost-user: docs/interop/vhost-user.rst of QEMU. Queues and packets: virtio 1.2, sections 2.7 and 5.10.

use std::{
    fs::File,
    io::{IoSlice, Read as _},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::{fs::FileExt as _, net::UnixStream},
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        socket::{ControlMessage, MsgFlags, sendmsg},
    },
};

/// What the guest does with a connection of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manners {
    /// Accepts it, sends more than is read, and confirms its end, as Linux does.
    Talks,
    /// Accepts it, sends something, and ends it.
    Ends,
    /// Accepts it, sends something, and confirms nothing.
    Keeps,
    /// Accepts it once [`Guest::wake`] was called, and then as [`Manners::Talks`].
    Sleeps,
}

// Requests of vhost-user.
const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
/// The version of the protocol, in each header's flags.
const VERSION: u32 = 1;
/// `VIRTIO_F_VERSION_1`.
const FEATURES: u64 = 1 << 32;

// Queues: what the guest receives, and what it sends.
const RECEIVE: u32 = 0;
const SEND: u32 = 1;
/// Descriptors of a queue.
const SIZE: u16 = 64;
/// The device writes into the buffer.
const DEVICE_WRITES: u16 = 2;

// Where things are in the memory: a queue's three parts, and the buffers behind all queues.
const MEMORY: u64 = 1 << 20;
const QUEUE: u64 = 0x4000;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const BUFFERS: u64 = 0x10000;
const BUFFER: u64 = 0x1400;
/// Where the guest's memory would be in its virtual machine's process.
const MAPPED_AT: u64 = 0x1000_0000;

const HEADER: usize = 44;
/// Bytes that a packet carries at most here.
const PAYLOAD: usize = 4096;

// Operations of packets.
const REQUEST: u16 = 1;
const RESPONSE: u16 = 2;
const RESET: u16 = 3;
const SHUTDOWN: u16 = 4;
const DATA: u16 = 5;
const CREDIT_UPDATE: u16 = 6;
const CREDIT_REQUEST: u16 = 7;
/// Neither reads nor writes any more.
const BOTH_WAYS: u32 = 3;

/// A running guest; it ends when this is dropped.
pub struct Guest {
    awake: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    driver: Option<thread::JoinHandle<Result<()>>>,
    /// The device ends with it.
    _connection: UnixStream,
}

impl Guest {
    /// Sets the device up, and starts the driver.
    pub fn boot(connection: UnixStream, manners: Manners) -> Result<Self> {
        let memory = tempfile::tempfile()?;
        memory.set_len(MEMORY)?;
        let driver = Driver { queues: Queues::new(memory)?, manners };
        driver.queues.hand_over(&connection)?;
        driver.queues.offer_buffers()?;
        let (awake, stop) = (Arc::new(AtomicBool::new(manners != Manners::Sleeps)), Arc::default());
        let thread = {
            let (awake, stop) = (Arc::clone(&awake), Arc::clone(&stop));
            thread::spawn(move || driver.run(&awake, &stop))
        };
        Ok(Self { awake, stop, driver: Some(thread), _connection: connection })
    }

    /// Lets a guest that sleeps go on.
    pub fn wake(&self) {
        self.awake.store(true, Ordering::Relaxed);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(driver) = self.driver.take() {
            let _ = driver.join();
        }
    }
}

/// A packet, without its addresses.
struct Packet {
    operation: u16,
    host_port: u32,
    guest_port: u32,
}

struct Driver {
    queues: Queues,
    manners: Manners,
}

impl Driver {
    fn run(mut self, awake: &AtomicBool, stop: &AtomicBool) -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            self.queues.wait()?;
            if !awake.load(Ordering::Relaxed) {
                continue;
            }
            while let Some(packet) = self.queues.receive()? {
                self.answer(&packet)?;
            }
        }
        Ok(())
    }

    fn answer(&mut self, packet: &Packet) -> Result<()> {
        let queues = &mut self.queues;
        match (packet.operation, self.manners) {
            (REQUEST, manners) => {
                queues.send(packet, RESPONSE, 0, 0)?;
                let packets = if manners == Manners::Ends { 1 } else { 4 };
                for _ in 0..packets {
                    queues.send(packet, DATA, PAYLOAD, 0)?;
                }
                if manners == Manners::Ends {
                    queues.send(packet, SHUTDOWN, 0, BOTH_WAYS)?;
                }
            }
            (CREDIT_REQUEST, _) => queues.send(packet, CREDIT_UPDATE, 0, 0)?,
            (SHUTDOWN, Manners::Talks | Manners::Sleeps) => queues.send(packet, RESET, 0, 0)?,
            _ => {}
        }
        Ok(())
    }
}

/// The device's queues in the guest's memory.
struct Queues {
    memory: File,
    kicks: [EventFd; 2],
    calls: [EventFd; 2],
    received: u16,
    sent: u16,
}

impl Queues {
    fn new(memory: File) -> Result<Self> {
        let event = || EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC);
        Ok(Self { memory, kicks: [event()?, event()?], calls: [event()?, event()?], received: 0, sent: 0 })
    }

    /// Gives the device the memory and the places of its queues.
    fn hand_over(&self, mut connection: &UnixStream) -> Result<()> {
        request(connection, SET_OWNER, &[], None)?;
        request(connection, SET_FEATURES, &FEATURES.to_le_bytes(), None)?;
        // One region, from guest's address 0 on.
        let region = [1, 0, MEMORY, MAPPED_AT, 0].map(u64::to_le_bytes).concat();
        request(connection, SET_MEM_TABLE, &region, Some(self.memory.as_raw_fd()))?;
        for queue in [RECEIVE, SEND] {
            let pair = |second: u32| [queue, second].map(u32::to_le_bytes).concat();
            request(connection, SET_VRING_NUM, &pair(u32::from(SIZE)), None)?;
            request(connection, SET_VRING_BASE, &pair(0), None)?;
            let at = MAPPED_AT + u64::from(queue) * QUEUE;
            let addresses = [at, at + USED, at + AVAILABLE, 0].map(u64::to_le_bytes).concat();
            request(connection, SET_VRING_ADDR, &[pair(0), addresses].concat(), None)?;
            let number = u64::from(queue).to_le_bytes();
            let (kick, call) = (&self.kicks[queue as usize], &self.calls[queue as usize]);
            request(connection, SET_VRING_CALL, &number, Some(call.as_fd().as_raw_fd()))?;
            request(connection, SET_VRING_KICK, &number, Some(kick.as_fd().as_raw_fd()))?;
        }
        // It is answered when all before was done.
        request(connection, GET_FEATURES, &[], None)?;
        let mut answer = [0; 12 + 8];
        connection.read_exact(&mut answer).context("the device's features")?;
        Ok(())
    }

    fn offer_buffers(&self) -> Result<()> {
        for number in 0..SIZE {
            self.describe(RECEIVE, number, BUFFER, DEVICE_WRITES)?;
            self.offer(RECEIVE, number, number)?;
        }
        self.kick(RECEIVE)
    }

    fn buffer(queue: u32, number: u16) -> u64 {
        BUFFERS + (u64::from(queue) * u64::from(SIZE) + u64::from(number)) * BUFFER
    }

    fn describe(&self, queue: u32, number: u16, length: u64, flags: u16) -> Result<()> {
        let mut descriptor = [0; 16];
        descriptor[..8].copy_from_slice(&Self::buffer(queue, number).to_le_bytes());
        descriptor[8..12].copy_from_slice(&u32::try_from(length)?.to_le_bytes());
        descriptor[12..14].copy_from_slice(&flags.to_le_bytes());
        Ok(self.memory.write_all_at(&descriptor, u64::from(queue) * QUEUE + 16 * u64::from(number))?)
    }

    /// Makes a descriptor the queue's `position`th available one.
    fn offer(&self, queue: u32, position: u16, number: u16) -> Result<()> {
        let ring = u64::from(queue) * QUEUE + AVAILABLE;
        self.memory.write_all_at(&number.to_le_bytes(), ring + 4 + 2 * u64::from(position % SIZE))?;
        Ok(self.memory.write_all_at(&position.wrapping_add(1).to_le_bytes(), ring + 2)?)
    }

    fn kick(&self, queue: u32) -> Result<()> {
        self.kicks[queue as usize].write(1).map(drop).context("kick the device")
    }

    /// Waits for a while until the device has used a descriptor.
    fn wait(&self) -> Result<()> {
        let call = &self.calls[RECEIVE as usize];
        let mut events = [PollFd::new(call.as_fd(), PollFlags::POLLIN)];
        if poll(&mut events, PollTimeout::from(20_u8))? > 0 {
            call.read()?;
        }
        Ok(())
    }

    /// How many descriptors the device has used.
    fn used(&self, queue: u32) -> Result<u16> {
        let mut index = [0; 2];
        self.memory.read_exact_at(&mut index, u64::from(queue) * QUEUE + USED + 2)?;
        Ok(u16::from_le_bytes(index))
    }

    fn receive(&mut self) -> Result<Option<Packet>> {
        if self.used(RECEIVE)? == self.received {
            return Ok(None);
        }
        let mut number = [0; 2];
        let entry = u64::from(RECEIVE) * QUEUE + USED + 4 + 8 * u64::from(self.received % SIZE);
        self.memory.read_exact_at(&mut number, entry)?;
        let number = u16::from_le_bytes(number);
        let mut header = [0; HEADER];
        self.memory.read_exact_at(&mut header, Self::buffer(RECEIVE, number))?;
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let packet = Packet {
            host_port: word(16),
            guest_port: word(20),
            operation: u16::from_le_bytes([header[30], header[31]]),
        };
        self.offer(RECEIVE, self.received.wrapping_add(SIZE), number)?;
        self.received = self.received.wrapping_add(1);
        self.kick(RECEIVE)?;
        Ok(Some(packet))
    }

    /// Sends a packet of the connection that another one is of.
    fn send(&mut self, of: &Packet, operation: u16, payload: usize, flags: u32) -> Result<()> {
        while self.sent.wrapping_sub(self.used(SEND)?) >= SIZE {
            thread::sleep(Duration::from_millis(1));
        }
        ensure!(payload <= PAYLOAD, "{payload} bytes in a packet");
        let number = self.sent % SIZE;
        let words = [of.guest_port, of.host_port, u32::try_from(payload)?, u32::from(operation) << 16 | 1];
        let credit = [flags, 64 << 10, 0];
        let packet = [
            [3_u64, 2].map(u64::to_le_bytes).concat(),
            words.map(u32::to_le_bytes).concat(),
            credit.map(u32::to_le_bytes).concat(),
            vec![b'.'; payload],
        ]
        .concat();
        self.memory.write_all_at(&packet, Self::buffer(SEND, number))?;
        self.describe(SEND, number, packet.len() as u64, 0)?;
        self.offer(SEND, self.sent, number)?;
        self.sent = self.sent.wrapping_add(1);
        self.kick(SEND)
    }
}

/// Sends a request of vhost-user, with a descriptor.
fn request(connection: &UnixStream, request: u32, body: &[u8], descriptor: Option<i32>) -> Result<()> {
    let header = [request, VERSION, u32::try_from(body.len())?].map(u32::to_le_bytes).concat();
    let descriptors = descriptor.map(|descriptor| [descriptor]);
    let rights = descriptors.as_ref().map(|descriptors| ControlMessage::ScmRights(descriptors));
    let parts = [IoSlice::new(&header), IoSlice::new(body)];
    sendmsg::<()>(connection.as_raw_fd(), &parts, rights.as_slice(), MsgFlags::empty(), None)
        .with_context(|| format!("request {request}"))?;
    Ok(())
}

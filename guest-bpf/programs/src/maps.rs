//! The maps and globals that the programs and the agent share.
//!
//! What every `unsafe` block on a value of a map relies on:
//!
//! - A pointer that a look-up gave points to a value of the map's type until the program ends, also when the element is
//!   removed meanwhile: the kernel gives its memory to nothing but another element of the same map before the RCU grace
//!   period is over (`kernel/bpf/hashtab.c`).
//! - Every bit pattern is a value of these types: integers and arrays of them.
//! - Other CPUs and the agent may write the same value at the same time. Whole words are read and written, and what
//!   must be consistent is guarded by [`porthole_bpf_types::offload::OffloadedConnection::lock`] or changed atomically.
//!   No reference is held to what another CPU may write.
//! - A value of a per-CPU map belongs to one program: where one may interrupt another on the same CPU, [`RUNNING`]
//!   keeps the second from starting.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
};
use porthole_bpf_types::{
    connection::Connection,
    kernel_key::{Completed, KERNEL_KEYS_MAX, KernelKey, RequestKey, SLOTS_MAX, Slot, SpanSampling},
    offload::{OffloadedConnection, PENDING_MAX, ParseState, StatementKey},
    offset::KernelOffsets,
    path::PathHash,
    process::{PROCESSES_MAX, ServingProcess},
    record::{Cgroup, Chunk, Counters, HEAD_MAX, Open, SOCKADDR_LEN, Settings},
    redis::RedisCommand,
    sql::SqlHash,
    thread::{GO_MARKS_MAX, GO_PROCESSES_MAX, HANDING_MAX, ServingThread, THREADS_MAX},
};
use porthole_framing::Walk;

/// Room for a head twice over: the verifier bounds position and length of a copy each by [`HEAD_MAX`].
pub const HEAD_ROOM: usize = 2 * HEAD_MAX as usize;

/// What a call moved, and the chunk under construction.
///
/// The programs pass values in this memory rather than in registers. The verifier does not track the contents of a map,
/// so the paths on which a value was written need not be verified apart.
#[repr(C)]
pub struct Work {
    /// What goes to user space: header and captured head.
    pub header: Chunk,
    pub head: [u8; HEAD_ROOM],
    /// The descriptor.
    pub fd: u64,
    /// A buffer, or an array of `struct iovec`.
    pub address: u64,
    /// Length of that array; [`NO_VECTOR`] for a buffer.
    pub count: u64,
    /// The `struct msghdr` that the call was given; 0 when it was given none, [`NOT_WRITTEN`] when a sender's address would
    /// be there, or in another argument, and is not yet.
    pub message: u64,
    /// The next `struct mmsghdr` of a call of several messages, and how many are left; zero for any other call.
    pub next_message: u64,
    pub messages_left: u64,
    /// Most bytes to capture; 0 when there is nothing that could be read.
    pub want: u64,
    /// Of a socket that reports what moves: TCP's sequence number behind the bytes; [`NO_PLACE`] where there is none.
    pub place: u64,
    /// The state of [`crate::offload`] while it parses the call.
    pub parse: Parse,
    /// The state of [`crate::capture`] while it copies the call.
    pub capture: Capture,
    /// Of the request line under inspection.
    pub path: PathHash,
    /// Of the statement under inspection.
    pub sql: SqlHash,
    /// The Redis command that was looked up last, and the hash of its name.
    pub command_hash: u64,
    pub command: RedisCommand,
    /// An exchange under construction, with the key that is looked up; too large for the stack.
    pub completed: Completed,
}

/// What of a call is copied: the state of [`crate::capture`].
#[repr(C)]
pub struct Capture {
    /// The direction's.
    pub walk: Walk,
    /// The connection's key.
    pub socket: u64,
    /// A number of [`porthole_framing::Framing`].
    pub framing: u64,
    /// Bytes of the call that are behind the pieces so far, and that it has.
    pub at: u64,
    pub total: u64,
    /// Bytes that may still be copied.
    pub limit: u64,
    /// Index that was reached in the window.
    pub index: u64,
    /// Not zero: the agent is woken when the call's last piece is sent.
    pub wake: u64,
}

/// The call of an offloaded connection that is being parsed.
#[repr(C)]
pub struct Parse {
    /// Position of the window's first byte.
    pub from: u64,
    /// The window's length.
    pub len: u64,
    /// Position that was reached in the call.
    pub at: u64,
    /// Index that was reached in the window.
    pub cursor: u64,
    /// When the call ended.
    pub now: u64,
    /// A number of [`porthole_protocol::Offload`].
    pub protocol: u64,
    /// Not zero: the call moved requests.
    pub requests: u64,
    /// 1 where the call's first byte was read by one before it, else 0.
    pub first: u64,
    /// Of a call of several buffers: index of the one that was reached, and position of its first byte.
    pub buffer: u64,
    pub gathered: u64,
    /// How far the direction was parsed.
    pub state: ParseState,
    /// Of a response: one bit for each pending request, the oldest lowest: whether it is HTTP's `HEAD`.
    pub head_requests: u64,
    /// Of the request whose head was read: see [`porthole_bpf_types::offload::request_flag`].
    pub flags: u32,
    /// Of a head: the framing of the body.
    pub framing: u32,
    /// Of a response whose outcome was read in this call: position of the byte before the outcome's text.
    pub outcome_at: u64,
    /// Of a head: `Content-Length`.
    pub length: u64,
    /// Of a statement: the index after it.
    pub statement_end: u64,
    /// Of a bulk string: the index of the line with its length.
    pub bulk_start: u64,
    /// Messages that end in this call.
    pub found: u64,
    /// Of those, the ones that were pushed, or completed a request.
    pub done: u64,
    /// Of a head: index in the window of the line with the trace's context; 0 where there is none.
    pub context_at: u64,
    /// Not zero: the cursor is at the beginning of a line of a head.
    pub line_begins: u64,
    /// Not zero: the exchange that a response completes is a record in any case.
    pub reported: u64,
    /// Of responses: key of the thread or goroutine that moved them; 0 where it is of no use.
    pub running: u64,
    /// Of a server's response: from when until when its process served this request alone; the latter is 0 where it did not.
    pub alone: [u64; 2],
    /// The messages.
    pub messages: [Message; PENDING_MAX],
}

/// A whole message.
#[repr(C)]
pub struct Message {
    /// Of a request: see [`ParseState::request`].
    pub request: u64,
    /// Of a request: when its first byte moved.
    pub start: u64,
    /// Its size.
    pub bytes: u64,
    /// Position in the call: of a request's head or statement, or of the byte before a response's outcome.
    pub at: u32,
    /// Of a request: see [`porthole_bpf_types::offload::request_flag`].
    pub flags: u16,
    /// Of a response: see [`ParseState::status`].
    pub status: u16,
}

/// This CPU's [`WORK`].
///
/// The global functions share it through the map. None of them may hold a reference to it across a call: the compiler
/// would assume that the call does not change it.
#[derive(Clone, Copy)]
pub struct Scratch(*mut Work);

impl Scratch {
    /// The one of the CPU that runs.
    #[inline(always)]
    pub fn get() -> Option<Self> {
        WORK.get_ptr_mut(0).map(Self)
    }

    /// The same.
    #[inline(always)]
    pub fn as_ptr(self) -> *mut Work {
        self.0
    }
}

impl core::ops::Deref for Scratch {
    type Target = Work;

    #[inline(always)]
    fn deref(&self) -> &Work {
        // SAFETY: a value that a look-up gave (see `maps`), which only the programs of this CPU use, one at a time.
        unsafe { &*self.0 }
    }
}

impl core::ops::DerefMut for Scratch {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Work {
        // SAFETY: as above, the same pointer.
        unsafe { &mut *self.0 }
    }
}

/// What [`settings`] gives. The agent writes it while the programs run, so there is no reference to it: each accessor
/// copies one field.
#[derive(Clone, Copy)]
pub struct CurrentSettings(*const Settings);

impl CurrentSettings {
    #[inline(always)]
    pub fn get() -> Self {
        Self(settings())
    }

    /// [`Settings::paused`].
    #[inline(always)]
    pub fn is_paused(self) -> bool {
        // SAFETY: the settings are there as long as a program runs, and the field is one word, which is read as a whole.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).paused) != 0 }
    }

    /// [`Settings::offload`].
    #[inline(always)]
    pub fn allows_offload(self) -> bool {
        // SAFETY: as in `is_paused`.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).offload) != 0 }
    }

    /// [`Settings::offers`].
    #[inline(always)]
    pub fn has_offers(self) -> bool {
        // SAFETY: as in `is_paused`.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).offers) != 0 }
    }
}

/// Progress of a task in a call of several messages.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Batch {
    /// The array of `struct mmsghdr`.
    pub messages: u64,
    /// Index of the next one.
    pub next: u64,
}

/// In [`Work::count`]: [`Work::address`] is a buffer.
pub const NO_VECTOR: u64 = u64::MAX;

/// In [`Work::message`]: the kernel has not written it yet.
pub const NOT_WRITTEN: u64 = u64::MAX;

/// In [`Work::place`]: not known.
pub const NO_PLACE: u64 = u64::MAX;

/// Who sent the datagram that a task is about to receive.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct DatagramSender {
    /// The task; 0 once it was used.
    pub task: u64,
    /// The socket's cookie.
    pub socket: u64,
    /// As in a `struct sockaddr_in` or `struct sockaddr_in6`.
    pub address: [u32; SOCKADDR_LEN / 4],
    pub reserved: u32,
}

/// Offsets of fields in the kernel's structs; set by the agent before loading.
#[unsafe(no_mangle)]
pub static OFFSETS: KernelOffsets = {
    // Not all zero: the section must hold data. The agent always overrides it.
    let mut offsets = ZEROED;
    offsets.task_files = 1;
    offsets
};

// SAFETY: a struct of integers, for which all zero is valid.
const ZEROED: KernelOffsets = unsafe { core::mem::zeroed() };

/// The agent's own process in the outermost namespace; set by the agent before loading.
#[unsafe(no_mangle)]
pub static SELF_TGID: u32 = u32::MAX;

/// Number of stripes of [`SLOTS`], less one; set by the agent before loading.
#[unsafe(no_mangle)]
pub static STRIPE_MASK: u32 = u32::MAX;

/// Which exchanges are sampled as spans; set by the agent before loading.
#[unsafe(no_mangle)]
pub static SPAN_SAMPLING: SpanSampling =
    SpanSampling { slow: u64::MAX, failures_interval: u64::MAX, interval: u64::MAX };

/// One field of [`SPAN_SAMPLING`], as [`offset!`].
macro_rules! sampling {
    ($field:ident) => {
        // SAFETY: a static of this module.
        unsafe { core::ptr::read_volatile(&raw const crate::maps::SPAN_SAMPLING.$field) }
    };
}
pub(crate) use sampling;

/// One field of [`OFFSETS`], as a constant to the verifier, but not to the compiler.
macro_rules! offset {
    ($field:ident) => {{ crate::maps::constant(&raw const crate::maps::OFFSETS.$field) as usize }};
}
pub(crate) use offset;

/// Reads a global that the agent has set. The compiler must not assume the value that it has in the source.
#[inline(always)]
pub fn constant(global: *const u32) -> u32 {
    // SAFETY: the callers pass statics of this module.
    unsafe { core::ptr::read_volatile(global) }
}

/// The agent's own process.
#[inline(always)]
pub fn self_tgid() -> u32 {
    constant(&raw const SELF_TGID)
}

/// Records for the agent. The agent sets the size.
#[map]
pub static RECORDS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Connections by address of their socket. The agent sets the size.
#[map]
pub static CONNECTIONS: LruHashMap<u64, Connection> = LruHashMap::with_max_entries(8192, 0);

/// An attempt to make a connection.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Attempt {
    /// When it began.
    pub began: u64,
    /// The control group of the process that makes it.
    pub cgroup: u64,
}

/// Attempts to make a connection, by address of their socket.
#[map]
pub static CONNECTING: LruHashMap<u64, Attempt> = LruHashMap::with_max_entries(2048, 0);

/// What user space decided about a connection, by its id: a `connection::Verdict`.
#[map]
pub static VERDICTS: LruHashMap<u64, u8> = LruHashMap::with_max_entries(8192, 0);

/// Control groups whose names were sent to user space.
#[map]
pub static CGROUPS: HashMap<u64, u8> = HashMap::with_max_entries(1024, 0);

/// Offloaded and offered connections, by id. The agent sets the size.
#[map]
pub static OFFLOADED: HashMap<u64, OffloadedConnection> = HashMap::with_max_entries(8192, BPF_F_NO_PREALLOC);

/// A connection in [`OFFLOADED`] under construction.
#[map]
pub static NEW_OFFLOADED: PerCpuArray<OffloadedConnection> = PerCpuArray::with_max_entries(1, 0);

/// Redis commands that the programs parse, by hash of their names in upper and in lower case. Filled by the agent.
#[map]
pub static COMMANDS: HashMap<u64, RedisCommand> = HashMap::with_max_entries(1024, 0);

/// Requests whose names user space has: hashes of HTTP methods and paths, and of statements.
#[map]
pub static NAMED: HashMap<u64, u8> = HashMap::with_max_entries(8192, BPF_F_NO_PREALLOC);

/// Prepared statements of connections that were offered: [`RequestKey::request`] of their executions.
#[map]
pub static STATEMENTS: LruHashMap<StatementKey, u64> = LruHashMap::with_max_entries(4096, 0);

/// Indexes in [`KERNEL_KEYS`].
#[map]
pub static KEY_INDEXES: HashMap<RequestKey, u32> =
    HashMap::with_max_entries(KERNEL_KEYS_MAX, BPF_F_NO_PREALLOC);

/// The kernel keys' entries.
#[map]
pub static KERNEL_KEYS: Array<KernelKey> = Array::with_max_entries(KERNEL_KEYS_MAX, 0);

/// The aggregates: for each stripe of CPUs [`SLOTS_MAX`] slots. The agent sets the number of stripes.
#[map]
pub static SLOTS: Array<Slot> = Array::with_max_entries(SLOTS_MAX, BPF_F_MMAPABLE);

/// Threads that serve requests, by their numbers modulo [`THREADS_MAX`]: a look-up in an array costs least.
#[map]
pub static THREADS: Array<ServingThread> = Array::with_max_entries(THREADS_MAX, 0);

/// The same of goroutines, by [`porthole_bpf_types::thread::goroutine::place`].
#[map]
pub static GOROUTINES: Array<ServingThread> = Array::with_max_entries(THREADS_MAX, 0);

/// Processes of whose threads one reads a request and another one answers it; with the mark of goroutines, those of whose goroutines one
/// does.
#[map]
pub static HANDED_ON: LruHashMap<u64, u8> = LruHashMap::with_max_entries(HANDING_MAX, 0);

/// Processes that serve requests, by their numbers modulo [`PROCESSES_MAX`].
#[map]
pub static PROCESSES: Array<ServingProcess> = Array::with_max_entries(PROCESSES_MAX, BPF_F_MMAPABLE);

/// Processes of Go: [`porthole_bpf_types::thread::goroutine::region`] of their goroutines' states.
#[map]
pub static GO_PROCESSES: LruHashMap<u64, u64> = LruHashMap::with_max_entries(GO_PROCESSES_MAX, 0);

/// Not zero: a process of Go has had such a number modulo [`GO_MARKS_MAX`]. All others need no look-up in a hash table.
#[map]
pub static GO_MARKS: Array<u32> = Array::with_max_entries(GO_MARKS_MAX, 0);

/// What went wrong, by CPU.
#[map]
pub static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// What user space can change; the programs read it through [`CurrentSettings`]. It takes no look-up: the section is a map of
/// one value, whose address is in the code.
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn settings() -> *const Settings {
    #[unsafe(link_section = ".bss.settings")]
    static SETTINGS: aya_ebpf::Global<Settings> =
        aya_ebpf::Global::new(Settings { reserved: 0, paused: 0, offload: 0, offers: 0 });
    (&raw const SETTINGS).cast()
}

/// The same of this thread's machine.
#[cfg(not(target_arch = "bpf"))]
pub fn settings() -> *mut Settings {
    static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
    SETTINGS.get_ptr_mut(0).unwrap_or_default()
}

/// Only the system call's program uses it, and that does not interrupt itself.
#[map]
pub static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(1, 0);

/// Number of programs that use [`WORK`] on this CPU. A program that may interrupt another one checks it first.
#[map]
pub static RUNNING: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The sender of the datagram that was received last, until its bytes are reported.
#[map]
pub static SENDER: PerCpuArray<DatagramSender> = PerCpuArray::with_max_entries(1, 0);

/// Progress of tasks in calls of several messages, by thread and process.
#[map]
pub static BATCHES: LruHashMap<u64, Batch> = LruHashMap::with_max_entries(512, 0);

/// The program that the stubs call; filled by the agent before anything is attached.
#[map]
pub static CORE: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Announcements under construction: one for the system call's, one for the closing sockets' program.
#[map]
pub static OPEN: PerCpuArray<Open> = PerCpuArray::with_max_entries(2, 0);

/// Announcements of control groups under construction: one for the system call's, one for the exit's program.
#[map]
pub static CGROUP: PerCpuArray<Cgroup> = PerCpuArray::with_max_entries(2, 0);

/// What the kernel side remembers for itself, one value for all CPUs each: see [`memory`].
#[map]
pub static MEMORY: Array<u64> = Array::with_max_entries(memory::END, 0);

/// Indexes in [`MEMORY`].
pub mod memory {
    /// Address of the operations that all sockets' files have.
    pub const SOCKET_OPERATIONS: u32 = 0;
    /// When a process exit last woke the agent.
    pub const EXIT_WAKE: u32 = 1;
    /// When a failed call that has no slot was last sampled with the request that it was made for: by the call's
    /// [`porthole_bpf_types::kernel_key::RequestKey::request`] modulo [`FAILED_CALLS_MAX`].
    pub const FAILED_CALLS: u32 = 2;
    pub const FAILED_CALLS_MAX: u32 = 64;
    /// Number of the values.
    pub const END: u32 = FAILED_CALLS + FAILED_CALLS_MAX;
}

/// Adds to one of this CPU's counters.
macro_rules! count {
    ($field:ident) => {
        count!($field, 1)
    };
    ($field:ident, $n:expr) => {
        if let Some(counters) = crate::maps::COUNTERS.get_ptr_mut(0) {
            #[allow(unused_unsafe)] // Where it is used inside of another block.
            // SAFETY: the value that the map gave, and the offset of a field.
            unsafe {
                crate::maps::add(
                    counters,
                    core::mem::offset_of!(porthole_bpf_types::record::Counters, $field),
                    $n,
                );
            }
        }
    };
}
pub(crate) use count;

/// Adds to the counter at `offset`. Nothing else of this CPU writes it except an interrupt, which may cost a count.
///
/// # Safety
///
/// `counters` must be this CPU's value of [`COUNTERS`], and `offset` that of one of its fields.
#[inline(always)]
#[allow(clippy::cast_ptr_alignment)] // All fields have the same type.
pub unsafe fn add(counters: *mut Counters, offset: usize, n: u64) {
    // SAFETY: the caller guarantees this CPU's value and the offset of one of its fields, all of which are words.
    unsafe { *counters.cast::<u8>().add(offset).cast::<u64>() += n }
}

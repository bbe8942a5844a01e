/**
 * Closes the door of a listening port without touching a connection that has come in. A plain close resets what waits in
 * the kernel's queue, and the runtime's own stop also hangs up on idle connections, so that a call which is just arriving
 * on either fails, and no balancer may send it again. Linux only; elsewhere there is nothing but the plain close.
 */
import { dlopen, ptr } from 'bun:ffi'
import { readdirSync } from 'node:fs'

/** What is on its way when new connections are no longer let in has this long to arrive. */
const ARRIVAL_MS = 150

/** glibc, and musl on its architectures. */
const LIBRARIES = ['libc.so.6', 'libc.musl-x86_64.so.1', 'libc.musl-aarch64.so.1'] as const

/** @source asm-generic/socket.h and linux/net.h; the same on x86-64 and arm64 */
const SOL_SOCKET = 1
const SO_ATTACH_FILTER = 26
const SO_ACCEPTCONN = 30
const AF_UNIX = 1
const SOCK_STREAM = 1
const CLOSE_ON_EXEC = 0o2000000

/**
 * A filter that drops every packet which asks for a new connection and lets all others through: byte 13 of a TCP header
 * has the flags, bit 1 of it is SYN. Who asks meanwhile asks again after a second and is then refused.
 * @source https://www.kernel.org/doc/html/latest/networking/filter.html
 */
const DROP_NEW: readonly (readonly [code: number, ifTrue: number, ifFalse: number, value: number])[] = [
  [0x30, 0, 0, 13],
  [0x45, 1, 0, 2],
  [0x06, 0, 0, 0xffffffff],
  [0x06, 0, 0, 0],
]

/**
 * Lets what is arriving come in, then refuses new connections at this port; open ones, idle or not, stay as they are.
 * @param port of a listener of this very process
 * @returns false where this cannot be done, and then nothing has been done
 */
export async function refuseNewConnections(port: number): Promise<boolean> {
  const libc = openLibc()
  if (!libc) return false
  const { getsockopt, getsockname, setsockopt, socket, dup3, close } = libc
  const isListener = (fd: number): boolean => {
    const value = new Int32Array(1)
    const valueBytes = new Uint32Array([value.byteLength])
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, ptr(value), ptr(valueBytes)) !== 0 || value[0] !== 1) return false
    const address = new Uint8Array(128)
    const addressBytes = new Uint32Array([address.byteLength])
    if (getsockname(fd, ptr(address), ptr(addressBytes)) !== 0) return false
    // Both forms of an internet address have the port, in network order, after two bytes.
    return new DataView(address.buffer).getUint16(2) === port
  }
  const listeners = readdirSync('/proc/self/fd').map(Number).filter(isListener)
  if (listeners.length === 0) return false

  const program = new DataView(new ArrayBuffer(DROP_NEW.length * 8))
  DROP_NEW.forEach(([code, ifTrue, ifFalse, value], line) => {
    program.setUint16(line * 8, code, true)
    program.setUint8(line * 8 + 2, ifTrue)
    program.setUint8(line * 8 + 3, ifFalse)
    program.setUint32(line * 8 + 4, value, true)
  })
  const filter = new DataView(new ArrayBuffer(16))
  filter.setUint16(0, DROP_NEW.length, true)
  filter.setBigUint64(8, BigInt(ptr(program)), true)
  for (const fd of listeners) setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, ptr(filter), 16)
  await Bun.sleep(ARRIVAL_MS)

  // The runtime keeps its number, which it will close; what stands behind it is now a socket that nobody knows.
  const nobody = socket(AF_UNIX, SOCK_STREAM | CLOSE_ON_EXEC, 0)
  if (nobody < 0) return false
  for (const fd of listeners) dup3(nobody, fd, CLOSE_ON_EXEC)
  close(nobody)
  return true
}

function openLibc() {
  if (process.platform !== 'linux') return undefined
  for (const name of LIBRARIES) {
    try {
      return dlopen(name, {
        getsockopt: { args: ['i32', 'i32', 'i32', 'ptr', 'ptr'], returns: 'i32' },
        getsockname: { args: ['i32', 'ptr', 'ptr'], returns: 'i32' },
        setsockopt: { args: ['i32', 'i32', 'i32', 'ptr', 'u32'], returns: 'i32' },
        socket: { args: ['i32', 'i32', 'i32'], returns: 'i32' },
        dup3: { args: ['i32', 'i32', 'i32'], returns: 'i32' },
        close: { args: ['i32'], returns: 'i32' },
      }).symbols
    } catch {
      // Another C library may be the one here.
    }
  }
  return undefined
}

// The dynamic section of a 64-bit little-endian ELF library: enough to order libraries by what they need.
import { readFileSync, readdirSync, realpathSync } from 'node:fs';
import { join } from 'node:path';

const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const DT = { NULL: 0n, NEEDED: 1n, STRTAB: 5n, SONAME: 14n };

/**
 * Reads DT_SONAME and DT_NEEDED. Returns null for anything that is not such a library.
 * @param {Buffer} bytes
 * @returns {{ soname: string | null, needed: string[] } | null}
 */
export function readElf(bytes) {
  const isElf64 = bytes.length >= 64 && bytes.readUInt32BE(0) === 0x7f454c46 && bytes[4] === 2;
  if (!isElf64 || bytes[5] !== 1) return null;
  const headers = Number(bytes.readBigUInt64LE(32));
  const size = bytes.readUInt16LE(54);
  const count = bytes.readUInt16LE(56);
  const segments = [];
  for (let i = 0; i < count; i++) {
    const at = headers + i * size;
    if (at + 40 > bytes.length) return null;
    segments.push({
      type: bytes.readUInt32LE(at),
      offset: Number(bytes.readBigUInt64LE(at + 8)),
      address: Number(bytes.readBigUInt64LE(at + 16)),
      length: Number(bytes.readBigUInt64LE(at + 32)),
    });
  }
  const dynamic = segments.find((s) => s.type === PT_DYNAMIC);
  if (!dynamic || dynamic.offset + dynamic.length > bytes.length) return null;

  let strings;
  let soname;
  const needed = [];
  for (let at = dynamic.offset; at + 16 <= dynamic.offset + dynamic.length; at += 16) {
    const tag = bytes.readBigUInt64LE(at);
    const value = Number(bytes.readBigUInt64LE(at + 8));
    if (tag === DT.NULL) break;
    if (tag === DT.STRTAB) strings = value;
    if (tag === DT.SONAME) soname = value;
    if (tag === DT.NEEDED) needed.push(value);
  }
  // DT_STRTAB is an address in memory; the segment that loads it tells where it lies in the file.
  const home = segments.find(
    (s) => s.type === PT_LOAD && strings >= s.address && strings < s.address + s.length,
  );
  if (!home) return null;
  const table = strings - home.address + home.offset;
  const text = (offset) => {
    const end = bytes.indexOf(0, table + offset);
    return bytes.toString('utf8', table + offset, end < 0 ? bytes.length : end);
  };
  return { soname: soname === undefined ? null : text(soname), needed: needed.map(text) };
}

/**
 * Every library below `folder`, by SONAME (by file name where it has none).
 * @returns {Map<string, { path: string, needed: string[] }>}
 */
export function findLibraries(folder) {
  const libraries = new Map();
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || !/\.so(\.|$)/.test(entry.name)) continue;
    const path = realpathSync(join(entry.parentPath ?? entry.path, entry.name));
    const elf = readElf(readFileSync(path));
    if (elf) libraries.set(elf.soname ?? entry.name, { path, needed: elf.needed });
  }
  return libraries;
}

/**
 * The SONAMEs in `libraries` that `roots` need, each after all that it needs itself. Names that are not in
 * `libraries` are the system's and are left out. A circle is cut where it closes.
 * @param {Map<string, { needed: string[] }>} libraries
 * @param {string[]} roots
 */
export function loadOrder(libraries, roots) {
  const order = [];
  const seen = new Set();
  const visit = (name) => {
    const library = libraries.get(name);
    if (!library || seen.has(name)) return;
    seen.add(name);
    library.needed.forEach(visit);
    order.push(name);
  };
  roots.forEach(visit);
  return order;
}

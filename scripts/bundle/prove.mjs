// Runs a bundle where nothing is but a C library, a shell and its tools: a small root of copied programs, in namespaces of
// its own without a network, with an empty environment. Node, the repository and the drivers of this machine are out of sight.
import { copyFileSync, cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { spawn } from 'node:child_process';
import os from 'node:os';
import { basename, dirname, join } from 'node:path';
import { SetupError, run } from '../lib/process.mjs';
import { neededPaths, systemLibrary } from './libraries.mjs';

const PROGRAMS = [
  ...['bash', 'env', 'cat', 'chmod', 'cp', 'date', 'dirname', 'grep', 'head', 'ls', 'mkdir'],
  ...['mktemp', 'nproc', 'readlink', 'rm', 'sed', 'sleep', 'tail', 'tar', 'timeout', 'uname'],
];
/** The rest of what any such system has; not all of it is needed by the programs. */
const LIBRARIES = [
  ...['libc.so.6', 'libm.so.6', 'libdl.so.2', 'librt.so.1', 'libpthread.so.0', 'libresolv.so.2'],
  ...['libstdc++.so.6', 'libgcc_s.so.1'],
];

/** Set up outside, as the namespaces' root; $1 is the small root, $2 the bundle, the rest is the command. */
const ENTER = `
set -e
root=$1 bundle=$2
shift 2
mount --make-rprivate /
mount --bind "$bundle" "$root/bundle"
mount -o remount,bind,ro "$root/bundle"
mount -t proc proc "$root/proc"
for device in null zero full random urandom; do
  : > "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
exec chroot "$root" /usr/bin/env -i PATH=/usr/bin:/bin HOME=/home/nobody /usr/bin/bash "$@"`;

/** Says what is not there, runs the bundle, and says what is left of it. */
const INSIDE = `
echo "environment: $(env | grep -v '^_=' | sed ':a;N;$!ba;s/\\n/ /g')"
for program in node npm python3 xz ldconfig nvidia-smi vulkaninfo; do
  command -v "$program" && exit 1 || echo "absent: $program"
done
echo "network interfaces: $(sed -n '3,$s/:.*//p' /proc/net/dev)"
echo "in the root: $(cd / && echo *)"
code=0
/bundle/gpu-run "$@" /out || code=$?
echo "left in /tmp: $(ls /tmp | grep -c .) files"
exit $code`;

/**
 * @param {{ bundle: string, results: string, args: string[] }} options `results` takes what the run wrote; `args` go to gpu-run
 * @returns {Promise<number>} gpu-run's exit code
 */
export async function proveBundle({ bundle, results, args }) {
  const root = mkdtempSync(join(os.tmpdir(), 'wgsagan-prove-'));
  try {
    await makeRoot(root);
    const spaces = ['--net', '--mount', '--pid', '--ipc', '--uts', '--fork', '--kill-child'];
    const asRoot = process.getuid() === 0 ? [] : ['--map-root-user'];
    const inside = ['-c', INSIDE, 'inside', ...args];
    const command = [...spaces, ...asRoot, 'bash', '-c', ENTER, 'enter', root, bundle, ...inside];
    const code = await new Promise((resolve) => {
      const child = spawn('unshare', command, { stdio: ['ignore', 'inherit', 'inherit'] });
      child.on('error', () => resolve(127));
      child.on('close', (status) => resolve(status ?? 1));
    });
    if (code === 127) throw new SetupError('the proof needs unshare (util-linux)');
    rmSync(results, { recursive: true, force: true });
    cpSync(join(root, 'out'), results, { recursive: true });
    return code;
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}

async function makeRoot(root) {
  for (const folder of ['usr/bin', 'bundle', 'proc', 'dev', 'tmp', 'out', 'home/nobody']) {
    mkdirSync(join(root, folder), { recursive: true });
  }
  symlinkSync('usr/bin', join(root, 'bin'));
  const programs = await Promise.all(PROGRAMS.map(findProgram));
  const libraries = await Promise.all(LIBRARIES.map(systemLibrary));
  const present = libraries.filter((path) => path !== null);
  for (const path of programs) copyFileSync(path, join(root, 'usr', 'bin', basename(path)));
  for (const path of await neededPaths([...programs, ...present])) copyInto(root, path);
  for (const path of present) copyInto(root, path);
}

function copyInto(root, path) {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  copyFileSync(path, join(root, path));
}

async function findProgram(name) {
  const { code, stdout } = await run('bash', ['-c', `type -P ${name}`]);
  if (code !== 0) throw new SetupError(`the proof needs ${name}`);
  return stdout.trim();
}

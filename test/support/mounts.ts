import { execFileSync, spawnSync } from 'node:child_process';

/** A shell in a mount namespace of its own: what it mounts nobody else sees, and it is gone with it. */
const namespace = ['unshare', ['--map-root-user', '--mount', 'sh', '-ec']] as const;

/** Why no file system can be mounted here; undefined where one can. */
export function noMounts(): string | undefined {
  const [command, args] = namespace;
  const { status, stderr, error } = spawnSync(command, [...args, 'mount -t tmpfs none /mnt'], {
    encoding: 'utf8',
  });
  return status === 0 ? undefined : `no mounts here: ${error?.message ?? stderr.trim()}`;
}

/** Runs a shell script that may mount; returns what it prints on stdout. Throws with stderr where it fails. */
export function runMounted(script: string, env: NodeJS.ProcessEnv): string {
  const [command, args] = namespace;
  return execFileSync(command, [...args, script], {
    encoding: 'utf8',
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

import os from 'node:os';
import { Command } from 'commander';
import { checkFolders, findRuns } from '../report/discover.ts';
import { DashboardServer } from '../report/server.ts';
import { fail } from '../util/errors.ts';
import type { ExitState } from './main.ts';
import { wholeNumber } from './options.ts';
import { onInterrupt } from './signals.ts';

export function dashboardCommand(_state: ExitState): Command {
  return new Command('dashboard')
    .description('serve the pages of many runs, live and side by side, on 127.0.0.1')
    .argument('<runs...>', 'run folders, or folders that hold some')
    .option('--port <number>', 'port to listen on; 0 takes any free one', wholeNumber, 0)
    .action(async (folders: string[], { port }: { port: number }) => {
      await serve(folders, port);
    });
}

async function serve(folders: readonly string[], port: number): Promise<void> {
  if (port > 65_535) fail(`--port is ${port}: expected 65535 or less`);
  checkFolders(folders);
  const dashboard = await DashboardServer.open(folders, port);
  const { length } = findRuns(folders);
  const runs = length === 1 ? '1 run' : `${length} runs`;
  process.stdout.write(
    [
      `dashboard   ${dashboard.url}`,
      `runs        ${runs} now; others show as they come`,
      `from afar   ssh -L ${dashboard.port}:127.0.0.1:${dashboard.port} ${os.hostname()}, then the same address there`,
      `end         ^C\n`,
    ].join('\n'),
  );
  await new Promise<void>((resolve) => {
    const release = onInterrupt(
      () => {
        release();
        resolve();
      },
      () => undefined,
    );
  });
  await dashboard.close();
}

/** A mistake of the user's (bad flag, file, shape): one clear line on stderr and exit code 2, never a stack. */
export class UserError extends Error {
  override readonly name = 'UserError';
}

/** A file whose bytes are not those that were once written: cut, or changed on its disk. */
export class DamagedError extends UserError {}

/** Throws a `UserError`; reads well at the end of an expression: `x ?? fail('…')`. */
export function fail(message: string): never {
  throw new UserError(message);
}

/** The message of whatever was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

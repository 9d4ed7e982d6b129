/** What comes after an operation in the same launch: ReLU, or LeakyReLU with a slope above 0. */
export interface FusedActivation {
  /** 0: ReLU. */
  readonly slope: number;
}

/** The constant and the slope by which a kernel applies an activation. */
export function activationOf(activation: FusedActivation | undefined) {
  const slope = activation?.slope ?? 0;
  const ACT = activation === undefined ? 'NONE' : slope === 0 ? 'RELU' : 'LEAKY_RELU';
  return { ACT, slope };
}

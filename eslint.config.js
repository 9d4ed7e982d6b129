import tseslint from 'typescript-eslint';

const engine = 'src/{util,gpu,kernels,autograd,ops,nn,optim,models}/**/*.ts';

/** A default export has no name that a search could find. ESLint's and vitest's own files must have one. */
const noDefaultExport = {
  selector: 'ExportDefaultDeclaration',
  message: 'Export by name.',
};

export default tseslint.config(
  { ignores: ['dist/', '**/node_modules/', 'runs/', 'coverage/', '.cache/'] },
  // They import packages that are installed on demand: `npx tsc -p bench/peers` checks them.
  { ignores: ['bench/peers/{tfjs,jax,onnx}.ts'] },
  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.strictTypeChecked],
    languageOptions: {
      parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname },
    },
    rules: {
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/no-explicit-any': 'error',
      '@typescript-eslint/no-non-null-assertion': 'error',
      '@typescript-eslint/no-confusing-void-expression': ['error', { ignoreArrowShorthand: true }],
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_' }],
      '@typescript-eslint/prefer-readonly': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': [
        'error',
        { considerDefaultExhaustiveForUnions: true },
      ],
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }],
      'no-restricted-syntax': ['error', noDefaultExport],
      eqeqeq: 'error',
      'prefer-const': 'error',
    },
  },
  {
    // A browser must be able to run the engine: its one door to Node is platform.ts.
    files: [engine],
    ignores: ['src/gpu/platform.ts'],
    rules: {
      'no-restricted-imports': [
        'error',
        { patterns: [{ regex: '^(node:|webgpu$)', message: 'Go through src/gpu/platform.ts.' }] },
      ],
      'no-restricted-globals': ['error', 'process', 'Buffer', '__dirname', 'require'],
    },
  },
  {
    files: ['test/**/*.ts'],
    rules: {
      // Reference loops index typed arrays all day, and a test may reach into what it broke.
      '@typescript-eslint/no-non-null-assertion': 'off',
      '@typescript-eslint/no-unnecessary-type-assertion': 'off',
      '@typescript-eslint/no-unsafe-argument': 'off',
      '@typescript-eslint/no-unsafe-assignment': 'off',
      '@typescript-eslint/no-unsafe-call': 'off',
      '@typescript-eslint/no-unsafe-member-access': 'off',
      '@typescript-eslint/no-unsafe-return': 'off',
      '@typescript-eslint/require-await': 'off',
    },
  },
  { files: ['*.config.ts'], rules: { 'no-restricted-syntax': 'off' } },
  {
    files: ['scripts/**/*.mjs', 'src/report/page/*.js', '*.js'],
    extends: [tseslint.configs.strict],
    rules: { eqeqeq: 'error', 'prefer-const': 'error' },
  },
  {
    files: ['scripts/**/*.mjs', 'src/report/page/*.js'],
    rules: { 'no-restricted-syntax': ['error', noDefaultExport] },
  },
);

import { defineConfig } from 'eslint/config';
import tseslint from 'typescript-eslint';

/**
 * What a compiler cannot see: forgotten promises, `any` that slips in, unions handled in part. Layout is left to
 * .editorconfig; import directions, banned globals and file lengths are held by scripts/check-house.mjs.
 */
const plain = {
  curly: ['error', 'multi-line'],
  eqeqeq: 'error',
  'no-constant-binary-expression': 'error',
  'no-duplicate-imports': 'off',
  'no-else-return': 'error',
  'no-eval': 'error',
  'no-fallthrough': 'error',
  'no-lone-blocks': 'error',
  'no-new-wrappers': 'error',
  'no-restricted-syntax': [
    'error',
    {
      selector: "AssignmentExpression[operator!='='] > AwaitExpression",
      message: 'The left side is read before the await: what others assign meanwhile is lost. Await first.',
    },
  ],
  'no-self-compare': 'error',
  'no-template-curly-in-string': 'error',
  'no-unreachable': 'error',
  'no-unsafe-finally': 'error',
  'no-useless-rename': 'error',
  'no-useless-return': 'error',
  'no-var': 'error',
  'object-shorthand': 'error',
  'prefer-const': 'error',
};

const typed = {
  '@typescript-eslint/consistent-type-assertions': ['error', { assertionStyle: 'as', objectLiteralTypeAssertions: 'allow' }],
  '@typescript-eslint/consistent-type-imports': ['error', { fixStyle: 'inline-type-imports' }],
  '@typescript-eslint/no-explicit-any': 'error',
  '@typescript-eslint/no-floating-promises': 'error',
  '@typescript-eslint/no-misused-promises': 'error',
  '@typescript-eslint/no-unnecessary-boolean-literal-compare': 'error',
  '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', varsIgnorePattern: '^_', ignoreRestSiblings: true }],
  '@typescript-eslint/prefer-optional-chain': 'error',
  '@typescript-eslint/prefer-readonly': 'error',
  // A stack that lacks the function which awaited is hard to read, and a try that does not await catches nothing.
  '@typescript-eslint/return-await': ['error', 'in-try-catch'],
  '@typescript-eslint/switch-exhaustiveness-check': [
    'error',
    { considerDefaultExhaustiveForUnions: true, requireDefaultForNonUnion: false },
  ],
  '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true, allowBoolean: true }],
  // Ports answer with promises; an implementation in memory has nothing to await.
  '@typescript-eslint/require-await': 'off',
  // Handlers such as `closed() {}` that have nothing to do are fine.
  '@typescript-eslint/no-empty-function': 'off',
};

export default defineConfig(
  { ignores: ['dist/', 'node_modules/', 'data/', 'coverage/', '**/generated/'] },
  { rules: plain, linterOptions: { reportUnusedDisableDirectives: 'error' } },
  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.recommendedTypeChecked],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: typed,
  },
  {
    files: ['test/**/*.ts'],
    // `expect(x).to.be.true` is an expression.
    rules: { '@typescript-eslint/no-unused-expressions': 'off' },
  },
  {
    files: ['**/*.js', '**/*.mjs'],
    rules: { 'no-undef': 'error', 'no-unused-vars': 'error' },
    languageOptions: { globals: { process: 'readonly', console: 'readonly', URL: 'readonly', performance: 'readonly' } },
  },
);

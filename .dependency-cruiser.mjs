/** The map of ARCHITECTURE.md as rules: imports run downward, and a few capabilities belong to one place alone. */

const floors = [
  ['cli', []],
  ['agent', ['cli']],
  ['migrate', ['cli', 'agent']],
  ['workload', ['cli', 'agent', 'migrate', 'layers']],
  ['layers', ['cli', 'agent', 'migrate', 'workload']],
  ['transfer', ['cli', 'agent', 'migrate', 'workload', 'layers']],
  ['engine', ['cli', 'agent', 'migrate', 'workload', 'layers', 'transfer', 'wire', 'transport']],
  ['wire', ['cli', 'agent', 'migrate', 'workload', 'layers', 'transfer', 'engine', 'transport']],
  ['transport', ['cli', 'agent', 'migrate', 'workload', 'layers', 'transfer', 'engine', 'wire']],
];

const upward = floors
  .filter(([, above]) => above.length > 0)
  .map(([floor, above]) => ({
    name: `${floor}-imports-downward`,
    comment: `${floor} must be usable and testable without what is built on it`,
    severity: 'error',
    from: { path: `^src/${floor}/` },
    to: { path: `^src/(${above.join('|')})/` },
  }));

export default {
  forbidden: [
    ...upward,
    {
      name: 'errors-know-nothing',
      comment: 'the error catalogue is below every floor',
      severity: 'error',
      from: { path: '^src/errors\\.ts$' },
      to: { path: '^src/' },
    },
    {
      name: 'only-the-daemon-knows-drivers',
      comment: 'a fourth driver must be one folder and one line in agent/daemon; everything else sees workload/driver',
      severity: 'error',
      from: { path: '^src/', pathNot: '^src/(agent/daemon\\.ts|workload/(lxc|machine|qemu|libvirt)/)' },
      to: { path: '^src/workload/(lxc|machine|qemu|libvirt)/' },
    },
    {
      name: 'only-drivers-start-processes',
      comment:
        'whoever starts processes must also end them: drivers do, the pool of transfer workers, and transport/ssh, whose ' +
        'child is the connection itself and ends with it',
      severity: 'error',
      from: { path: '^src/', pathNot: '^src/(workload/|transfer/worker-pool\\.ts|transport/ssh\\.ts)' },
      to: { path: '^(node:)?child_process$|node_modules/(tinyexec|execa)/' },
    },
    {
      name: 'only-the-loader-touches-the-addon',
      comment: 'every other module speaks to the typed face in engine/engine',
      severity: 'error',
      from: { path: '^src/', pathNot: '^src/engine/(native|loader)\\.ts$' },
      to: { path: '^(node:)?module$|\\.node$' },
    },
    {
      name: 'only-the-cli-touches-the-terminal',
      comment: 'a library must not print, parse argv or exit',
      severity: 'error',
      from: { path: '^src/', pathNot: '^src/cli/' },
      to: { path: 'node_modules/(commander|cli-progress)/|^(node:)?(readline|tty)$' },
    },
    {
      name: 'no-cycles',
      comment: 'a cycle hides which of its members is the lower one',
      severity: 'error',
      from: {},
      to: { circular: true },
    },
    {
      name: 'src-does-not-import-tests',
      comment: 'what ships must not depend on what tests it',
      severity: 'error',
      from: { path: '^src/' },
      to: { path: '^(test|bench)/' },
    },
    {
      name: 'bench-measures-from-outside',
      comment:
        'the benchmark runs what users run, whole processes; only the digests that say whether two trees are equal come from ' +
        'the library, by the face that every program has',
      severity: 'error',
      from: { path: '^bench/' },
      to: { path: '^src/', pathNot: '^src/engine/engine\\.ts$' },
    },
    {
      name: 'bench-shares-only-the-testbed',
      comment: 'the testbed is for tests, demo and benchmark alike; what is for one of them alone stays there',
      severity: 'error',
      from: { path: '^bench/' },
      to: { path: '^test/', pathNot: '^test/testbed/' },
    },
    {
      name: 'nothing-builds-on-bench',
      comment: 'the benchmark is on top of everything; only the tests of its own arithmetic look into it',
      severity: 'error',
      from: { pathNot: '^(bench|test/unit/bench)/' },
      to: { path: '^bench/' },
    },
    {
      name: 'no-undeclared-packages',
      comment: 'what src uses at run time must be a dependency, not a development dependency',
      severity: 'error',
      from: { path: '^src/' },
      to: { dependencyTypes: ['npm-dev', 'npm-no-pkg', 'npm-unknown'], pathNot: 'node_modules/@types/' },
    },
    {
      name: 'no-orphans',
      comment: 'a module that nobody imports is either an entry point, named here, or dead',
      severity: 'error',
      from: { orphan: true, path: '^src/', pathNot: '^src/(cli/main|transfer/worker|engine/engine)\\.ts$' },
      to: {},
    },
  ],
  options: {
    tsConfig: { fileName: 'tsconfig.json' },
    tsPreCompilationDeps: true,
    doNotFollow: { path: 'node_modules' },
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'node', 'default', 'types'] },
  },
};

/** What is mounted where, as this process sees it. */

/** A line of /proc/self/mountinfo (proc(5)), as far as it matters here. */
export interface Mount {
  mountPoint: string;
  /** Which directory of the file system is seen there. */
  root: string;
  fileSystem: string;
  /** Its super options, e.g. `rw,lowerdir=…`. */
  options: string;
}

/** Reads /proc/self/mountinfo's text. */
export function parseMounts(mountinfo: string): Mount[] {
  const mounts: Mount[] = [];
  for (const line of mountinfo.split('\n')) {
    const separator = line.indexOf(' - ');
    if (separator < 0) continue;
    const [, , , root = '', mountPoint = ''] = line.split(' ');
    const [fileSystem = '', , options = ''] = line.slice(separator + 3).split(' ');
    mounts.push({
      mountPoint: unescapeOctal(mountPoint),
      root: unescapeOctal(root),
      fileSystem,
      options: unescapeOctal(options),
    });
  }
  return mounts;
}

/** mountinfo writes blanks, newlines and backslashes as three octal digits. */
function unescapeOctal(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}

// filesystem/upload: a directory
// prints: ==> file1.txt <==\nFile 1 contents...\n+==> file2.txt <==\nFile 2 contents...\n
import fs from 'fs'
import path from 'path'
import { Sandbox } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()

// Read all files in the directory and store their paths and contents in an array
const readDirectoryFiles = (directoryPath: string) => {
  // Read all files in the local directory
  const files = fs.readdirSync(directoryPath);

  // Map files to objects with path and data
  const filesArray = files
    .filter(file => {
      const fullPath = path.join(directoryPath, file);
      // Skip if it's a directory
      return fs.statSync(fullPath).isFile();
    })
    .map(file => {
      const filePath = path.join(directoryPath, file);

      // Read the content of each file
      return {
        path: filePath,
        data: fs.readFileSync(filePath, 'utf8')
      };
    });

  return filesArray;
};

// Usage example
const files = readDirectoryFiles('local/dir');
console.log(files);

await sandbox.files.write(files)
console.log((await sandbox.commands.run('cd local/dir; head *')).stdout)

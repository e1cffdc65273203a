#pragma once

#include <string>

namespace probe {

// What the probe changes in its root file system, and so in the overlay's upper directory: files of the base and the
// app layer deleted, a directory replaced, and new files of every kind that is easily lost on the way.

// Makes the changes; nothing if a former life of this container made them.
void makeRootChanges();

// Which of the changes are still as they were made: a JSON object of booleans, one a kind.
std::string verifyRootChanges();

}  // namespace probe

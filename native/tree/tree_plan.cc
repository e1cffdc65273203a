#include "tree/tree_plan.h"

#include <unordered_map>

namespace deltahop {
namespace {

uint32_t leaderOf(const Tree& tree, uint32_t index) {
  return tree.isFollower(index) ? tree.entry(index).leader : index;
}

bool sameContent(const Tree& own, uint32_t ownIndex, const Tree& wanted, uint32_t index, bool verify) {
  const Entry mine = own.entry(ownIndex);
  const Entry other = wanted.entry(index);
  if (mine.value != other.value) return false;
  if (verify) {
    const Digest* myDigest = own.digest(leaderOf(own, ownIndex));
    const Digest* digest = wanted.digest(index);
    return myDigest != nullptr && digest != nullptr && *myDigest == *digest;
  }
  return mine.mtimeSeconds == other.mtimeSeconds && mine.mtimeNanoseconds == other.mtimeNanoseconds;
}

}  // namespace

TreePlan planTree(const Tree& own, const Tree& wanted, bool verify) {
  TreePlan plan;
  plan.actions.assign(wanted.size(), Action::kMake);
  plan.partners.assign(wanted.size(), kNoEntry);
  std::vector<bool> keptDirectory(own.size(), false);
  PairWalk walk(own, wanted);
  while (const auto pair = walk.next()) {
    if (pair->right == kNoEntry) {
      // Beneath a directory that goes or is replaced, everything goes with it.
      const uint32_t parent = own.entry(pair->left).parent;
      if (parent != kNoEntry && keptDirectory[parent]) plan.deletes.push_back(pair->left);
      continue;
    }
    plan.partners[pair->right] = pair->left;
    if (pair->left != kNoEntry && own.isDirectory(pair->left) && wanted.isDirectory(pair->right)) {
      keptDirectory[pair->left] = true;
    }
  }
  // Two wanted files must not both keep one inode; the first in order keeps it.
  std::vector<bool> linked(own.size(), false);
  for (uint32_t index = 0; index < own.size(); ++index) {
    if (own.isFollower(index)) linked[index] = linked[own.entry(index).leader] = true;
  }
  std::unordered_map<uint32_t, uint32_t> keptBy;  // own leader → wanted leader
  for (uint32_t index = 0; index < wanted.size(); ++index) {
    const uint32_t partner = plan.partners[index];
    Action& action = plan.actions[index];
    if (wanted.isFollower(index)) {
      const uint32_t leader = wanted.entry(index).leader;
      const uint32_t leaderPartner = plan.partners[leader];
      const bool inodeKept = plan.actions[leader] == Action::kSettled || plan.actions[leader] == Action::kMetadata;
      const bool same = inodeKept && partner != kNoEntry && !own.isDirectory(partner) &&
                        leaderOf(own, partner) == leaderOf(own, leaderPartner);
      action = same ? Action::kSettled : Action::kLink;
      continue;
    }
    const bool sameType = partner != kNoEntry && (own.mode(partner) & S_IFMT) == (wanted.mode(index) & S_IFMT);
    const auto mayKeep = [&] { return !linked[partner] || keptBy.try_emplace(leaderOf(own, partner), index).second; };
    if (wanted.isDirectory(index)) {
      if (sameType) action = sameMetadata(own, partner, wanted, index) ? Action::kSettled : Action::kMetadata;
    } else if (wanted.isRegular(index)) {
      action = Action::kContent;
      if (sameType && sameContent(own, partner, wanted, index, verify) && mayKeep()) {
        action = sameMetadata(own, partner, wanted, index) ? Action::kSettled : Action::kMetadata;
      }
    } else if (sameType && sameMetadata(own, partner, wanted, index) && mayKeep()) {
      action = Action::kSettled;
    }
  }
  return plan;
}

}  // namespace deltahop

#include "tree/itemize.h"

#include <algorithm>

namespace deltahop {
namespace {

constexpr std::string_view kAclPrefix = "system.posix_acl_";
constexpr std::string_view kNew = "+++++++++";

// Bytes of the UTF-8 sequence at the front of `text`, 0 if there is no valid one (RFC 3629).
size_t utf8Length(std::string_view text) {
  const auto byte = [&](size_t at) { return static_cast<uint8_t>(text[at]); };
  const uint8_t first = byte(0);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  // No overlong forms, no surrogates, nothing above U+10FFFF; nor the C1 controls.
  if (first == 0xe0 && byte(1) < 0xa0) return 0;
  if (first == 0xed && byte(1) > 0x9f) return 0;
  if (first == 0xf0 && byte(1) < 0x90) return 0;
  if (first == 0xf4 && byte(1) > 0x8f) return 0;
  if (first == 0xc2 && byte(1) < 0xa0) return 0;
  return length;
}

void appendEscaped(std::string& line, std::string_view text) {
  while (!text.empty()) {
    const auto byte = static_cast<uint8_t>(text[0]);
    const bool looksEscaped = byte == '\\' && text.size() > 1 && text[1] == '#';
    const size_t length = utf8Length(text);
    if (length == 0 || byte < 0x20 || byte == 0x7f || looksEscaped) {
      line += "\\#";
      line += static_cast<char>('0' + (byte >> 6));
      line += static_cast<char>('0' + ((byte >> 3) & 7));
      line += static_cast<char>('0' + (byte & 7));
      text.remove_prefix(1);
    } else {
      line += text.substr(0, length);
      text.remove_prefix(length);
    }
  }
}

char typeLetter(uint32_t mode) {
  if (S_ISREG(mode)) return 'f';
  if (S_ISDIR(mode)) return 'd';
  if (S_ISLNK(mode)) return 'L';
  return S_ISCHR(mode) || S_ISBLK(mode) ? 'D' : 'S';
}

bool isAcl(const Xattr& xattr) {
  return std::string_view(xattr.name).starts_with(kAclPrefix);
}

// Whether those lists differ in what `which` picks.
template <typename Which>
bool differ(const XattrList& left, const XattrList& right, Which which) {
  XattrList a;
  XattrList b;
  std::copy_if(left.begin(), left.end(), std::back_inserter(a), which);
  std::copy_if(right.begin(), right.end(), std::back_inserter(b), which);
  return a != b;
}

class Itemizer {
 public:
  Itemizer(const Tree& own, const Tree& wanted, bool withOwners)
      : own_(own), wanted_(wanted), withOwners_(withOwners) {}

  // cstpoguax of an entry that is there already.
  std::string letters(uint32_t partner, uint32_t index) const {
    std::string letters(9, '.');
    const Entry mine = own_.entry(partner);
    const Entry other = wanted_.entry(index);
    const Attributes& myAttributes = own_.attributes(partner);
    const Attributes& attributes = wanted_.attributes(index);
    if (wanted_.isRegular(index)) {
      const Digest* myDigest = own_.digest(own_.isFollower(partner) ? mine.leader : partner);
      const Digest* digest = wanted_.digest(index);
      if (digest != nullptr && (myDigest == nullptr || *myDigest != *digest)) letters[0] = 'c';
      if (mine.value != other.value) letters[1] = 's';
    } else if (wanted_.isSymlink(index)) {
      if (own_.target(partner) != wanted_.target(index)) letters[0] = 'c';
    } else if (mine.value != other.value) {
      letters[0] = 'c';
    }
    if (mine.mtimeSeconds != other.mtimeSeconds || mine.mtimeNanoseconds != other.mtimeNanoseconds) letters[2] = 't';
    if (myAttributes.mode != attributes.mode) letters[3] = 'p';
    if (withOwners_ && myAttributes.uid != attributes.uid) letters[4] = 'o';
    if (withOwners_ && myAttributes.gid != attributes.gid) letters[5] = 'g';
    if (differ(own_.xattrs(partner), wanted_.xattrs(index), isAcl)) letters[7] = 'a';
    if (differ(own_.xattrs(partner), wanted_.xattrs(index), [](const Xattr& xattr) { return !isAcl(xattr); })) {
      letters[8] = 'x';
    }
    return letters;
  }

  void add(std::string line) {
    line += '\n';
    if (items_.omitted > 0 || items_.text.size() + line.size() > kMaxItemBytes) {
      ++items_.omitted;
    } else {
      items_.text += line;
    }
  }

  void addDeleted(uint32_t index) {
    // What is inside goes first.
    for (uint32_t at = own_.subtreeEnd(index); at-- > index;) {
      std::string line = "*deleting   ";
      appendEscaped(line, own_.path(at));
      if (own_.isDirectory(at)) line += '/';
      add(std::move(line));
    }
  }

  void addChange(uint32_t index, Action action, uint32_t partner) {
    const bool there = partner != kNoEntry && (own_.mode(partner) & S_IFMT) == (wanted_.mode(index) & S_IFMT);
    const std::string flags = there && action != Action::kLink ? letters(partner, index) : std::string(kNew);
    if (action == Action::kMetadata && flags == ".........") return;
    std::string line(1, action == Action::kContent    ? '>'
                        : action == Action::kLink     ? 'h'
                        : action == Action::kMetadata ? '.'
                                                      : 'c');
    line += typeLetter(wanted_.mode(index));
    line += flags;
    line += ' ';
    appendEscaped(line, index == 0 ? "." : wanted_.path(index));
    if (wanted_.isDirectory(index)) line += '/';
    if (action == Action::kLink) {
      line += " => ";
      appendEscaped(line, wanted_.path(wanted_.entry(index).leader));
    } else if (wanted_.isSymlink(index)) {
      line += " -> ";
      appendEscaped(line, wanted_.target(index));
    }
    add(std::move(line));
  }

  ItemList take() { return std::move(items_); }

 private:
  const Tree& own_;
  const Tree& wanted_;
  const bool withOwners_;
  ItemList items_;
};

}  // namespace

ItemList itemize(const Tree& own, const Tree& wanted, const TreePlan& plan, const std::vector<bool>& skipped,
                 bool withOwners, RootItem root) {
  Itemizer itemizer(own, wanted, withOwners);
  for (const uint32_t index : plan.deletes) itemizer.addDeleted(index);
  if (root == RootItem::kMade) itemizer.addChange(0, Action::kMake, kNoEntry);
  for (uint32_t index = root == RootItem::kAsItIs ? 0 : 1; index < wanted.size(); ++index) {
    if (plan.actions[index] == Action::kSettled || skipped[index]) continue;
    itemizer.addChange(index, plan.actions[index], plan.partners[index]);
  }
  return itemizer.take();
}

}  // namespace deltahop

# zstd from the sources that the zstd-napi package carries, so that both sides of the addon speak the very same version.
# Static and hidden: Node itself may carry another zstd.
option(DELTAHOP_SYSTEM_ZSTD "Link the system's libzstd instead of the sources in node_modules/zstd-napi" OFF)

if(DELTAHOP_SYSTEM_ZSTD)
  find_package(PkgConfig REQUIRED)
  pkg_check_modules(ZSTD REQUIRED IMPORTED_TARGET "libzstd>=1.5.4")
  add_library(deltahop_zstd INTERFACE)
  target_link_libraries(deltahop_zstd INTERFACE PkgConfig::ZSTD)
  return()
endif()

set(DELTAHOP_ZSTD_VERSION "1.5.7")
set(DELTAHOP_ZSTD_DIR "${CMAKE_CURRENT_SOURCE_DIR}/../node_modules/zstd-napi/deps/zstd/lib")
if(NOT EXISTS "${DELTAHOP_ZSTD_DIR}/zstd.h")
  message(FATAL_ERROR "zstd sources not found in node_modules/zstd-napi: run `npm ci`, or set -DDELTAHOP_SYSTEM_ZSTD=ON")
endif()
file(STRINGS "${DELTAHOP_ZSTD_DIR}/zstd.h" DELTAHOP_ZSTD_DEFINES REGEX "#define ZSTD_VERSION_(MAJOR|MINOR|RELEASE) ")
string(REGEX REPLACE ".*MAJOR +([0-9]+).*MINOR +([0-9]+).*RELEASE +([0-9]+).*" "\\1.\\2.\\3" DELTAHOP_ZSTD_FOUND "${DELTAHOP_ZSTD_DEFINES}")
if(NOT DELTAHOP_ZSTD_FOUND VERSION_EQUAL DELTAHOP_ZSTD_VERSION)
  message(FATAL_ERROR "zstd-napi carries zstd ${DELTAHOP_ZSTD_FOUND}, this build is pinned to ${DELTAHOP_ZSTD_VERSION}")
endif()

file(GLOB DELTAHOP_ZSTD_SOURCES
  "${DELTAHOP_ZSTD_DIR}/common/*.c" "${DELTAHOP_ZSTD_DIR}/compress/*.c" "${DELTAHOP_ZSTD_DIR}/decompress/*.c")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  list(APPEND DELTAHOP_ZSTD_SOURCES "${DELTAHOP_ZSTD_DIR}/decompress/huf_decompress_amd64.S")
endif()
add_library(deltahop_zstd STATIC ${DELTAHOP_ZSTD_SOURCES})
target_include_directories(deltahop_zstd SYSTEM PUBLIC "${DELTAHOP_ZSTD_DIR}")
target_compile_definitions(deltahop_zstd PRIVATE
  XXH_NAMESPACE=ZSTD_ ZSTDERRORLIB_VISIBLE= ZSTDLIB_VISIBLE= ZSTD_MULTITHREAD ZSTD_NO_TRACE)
set_target_properties(deltahop_zstd PROPERTIES C_VISIBILITY_PRESET hidden POSITION_INDEPENDENT_CODE ON)
